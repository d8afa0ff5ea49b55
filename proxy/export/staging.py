"""Staging: examples in a file on their way, until it is known which of them another one contains.

Whether a conversation is the beginning of another is only known when all have been seen. So each is
written down once, and its digests go into an index on disk; then those that nothing contains are
read back in order. Memory is the same for ten examples and for ten million.

    line 1   facts of the example as JSON
    line 2   the example itself, as it will stand in the data set
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from proxy.errors import ProxyError

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE begun (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE taken (digest BLOB PRIMARY KEY) WITHOUT ROWID;
"""
_BEGUN = "INSERT OR IGNORE INTO begun VALUES (?)"
_IS_BEGUN = "SELECT 1 FROM begun WHERE digest = ?"
_TAKE = "INSERT OR IGNORE INTO taken VALUES (?)"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an example besides its text."""

    rows: tuple[str, ...]  # ids of the rows it comes from, the last holds it
    split: str
    model: str
    stop_reason: str | None
    tokens: int | None
    redactions: int = 0


class Staging:
    """The examples seen so far. To be used with `with`; leaves nothing behind."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / f".{name}.staging"
        self._index_path = directory / f".{name}.index"

    def __enter__(self) -> Self:
        self._remove()
        self._file = self._path.open("w+b")
        self._index = sqlite3.connect(self._index_path, isolation_level=None)
        self._index.executescript(_TABLES)
        self._index.execute("BEGIN")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._index.close()
        self._remove()

    def add(self, facts: Facts, digests: Sequence[bytes], example: bytes) -> None:
        """Write down an example. `digests`: of each of its beginnings, the last of the whole."""
        self._file.write(orjson.dumps([facts, digests[-1].hex()]) + b"\n" + example + b"\n")
        self._index.executemany(_BEGUN, ((digest,) for digest in digests[:-1]))

    def chosen(self) -> Iterator[tuple[Facts, bytes | None]]:
        """All examples in order; None in place of one that another contains or equals."""
        self._file.seek(0)
        while line := self._file.readline():
            facts, digest = orjson.loads(line)
            example = self._file.readline()[:-1]
            is_chosen = self._is_chosen(bytes.fromhex(digest))
            facts["rows"] = tuple(facts["rows"])
            yield Facts(**facts), example if is_chosen else None

    def _is_chosen(self, digest: bytes) -> bool:
        if self._index.execute(_IS_BEGUN, (digest,)).fetchone():
            return False
        return self._index.execute(_TAKE, (digest,)).rowcount == 1

    def _remove(self) -> None:
        for path in (self._path, self._index_path):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Two at once would write into each other's files, of which one, the card, is for both."""
    held = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # of file systems that do not lock directories
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ProxyError(
                    f"--out: another export writes into {directory}; wait for it, or choose another"
                ) from None
        yield
    finally:
        os.close(held)
