"""Changes view: what deriving rows again has changed, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Changes(Protocol):
    """What deriving calls again has changed (`recompute.Changes`)."""

    @property
    def rows(self) -> int: ...
    @property
    def changed(self) -> int: ...
    @property
    def unreadable(self) -> int: ...
    @property
    def columns(self) -> Mapping[str, int]: ...


def as_json(calls: Changes) -> dict[str, Any]:
    """The counts as plain values."""
    return {
        "rows": calls.rows,
        "changed": calls.changed,
        "unreadable": calls.unreadable,
        "columns": dict(calls.columns),
    }


def as_text(calls: Changes) -> str:
    """The counts, and a line per column."""
    lines = [f"{calls.rows} calls derived again, {calls.changed} of them changed"]
    columns = sorted(calls.columns.items(), key=lambda column: -column[1])
    lines += [f"{number:>8}  {name}" for name, number in columns]
    if calls.unreadable:
        lines.append(f"{calls.unreadable:>8}  raw copies could not be read")
    return "\n".join(lines)
