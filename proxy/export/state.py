"""State of an incremental export: which rows have become examples, and under which options.

A small database beside the output. It is written after the files are in place: a run that breaks
off is simply done again, and overwrites its own unfinished part.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from proxy.errors import ConfigError

_TABLES = """
CREATE TABLE IF NOT EXISTS run (number INTEGER PRIMARY KEY, options TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS example (id TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
"""


class State:
    """What earlier runs have exported."""

    def __init__(self, path: Path, options: str) -> None:
        """Raises ConfigError where earlier runs had other options."""
        self._connection = sqlite3.connect(path)
        self._options = options
        try:
            self._connection.executescript(_TABLES)
            found = self._connection.execute("SELECT number, options FROM run").fetchall()
        except sqlite3.DatabaseError:
            raise ConfigError(f"{path}: is no state of an export; remove it") from None
        if any(earlier != options for _, earlier in found):
            raise ConfigError(
                f"{path}: earlier runs had other options; use another --out, or remove it to begin"
                " again"
            )
        self.number = len(found) + 1

    def has(self, id: str) -> bool:
        """Whether the row is the end of an example already written."""
        query = "SELECT 1 FROM example WHERE id = ?"
        return self._connection.execute(query, (id,)).fetchone() is not None

    def note(self, ids: Iterable[str]) -> None:
        """Remember rows; nothing is kept before `commit`."""
        query = "INSERT OR IGNORE INTO example VALUES (?, ?)"
        self._connection.executemany(query, ((id, self.number) for id in ids))

    def commit(self) -> None:
        """The files are in place."""
        self._connection.execute("INSERT INTO run VALUES (?, ?)", (self.number, self._options))
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()


def state_path(out: Path) -> Path:
    return out.with_name(f".{out.name}.state")


def part_of(out: Path, number: int) -> Path:
    """The file of a run: `data.jsonl`, then `data.2.jsonl`, and so on."""
    return out if number == 1 else out.with_name(f"{out.stem}.{number}{out.suffix}")
