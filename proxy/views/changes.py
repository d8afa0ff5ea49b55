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
    def outdated(self) -> int: ...
    @property
    def unreadable(self) -> int: ...
    @property
    def columns(self) -> Mapping[str, int]: ...


class TurnChanges(Protocol):
    """What judging turns again has changed (`relink.TurnChanges`)."""

    @property
    def calls(self) -> int: ...
    @property
    def turns(self) -> int: ...
    @property
    def changed(self) -> int: ...
    @property
    def appeared(self) -> int: ...
    @property
    def gone(self) -> int: ...
    @property
    def reasons(self) -> Mapping[tuple[str, str], int]: ...


def turns_as_json(turns: TurnChanges) -> dict[str, Any]:
    """The counts as plain values."""
    reasons = [
        {"before": before, "now": now, "turns": number}
        for (before, now), number in turns.reasons.items()
    ]
    names = ("calls", "turns", "changed", "appeared", "gone")
    return {name: getattr(turns, name) for name in names} | {"reasons": reasons}


def turns_as_text(turns: TurnChanges) -> str:
    """The counts, and a line for each change of a stop reason."""
    head = (
        f"{turns.turns} turns of {turns.calls} calls judged again: {turns.changed} changed, "
        f"{turns.appeared} new, {turns.gone} gone"
    )
    reasons = sorted(turns.reasons.items(), key=lambda reason: -reason[1])
    return "\n".join(
        [head, *(f"{number:>8}  {before} → {now}" for (before, now), number in reasons)]
    )


def as_json(calls: Changes) -> dict[str, Any]:
    """The counts as plain values."""
    return {
        "rows": calls.rows,
        "changed": calls.changed,
        "outdated": calls.outdated,
        "unreadable": calls.unreadable,
        "columns": dict(calls.columns),
    }


def as_text(calls: Changes) -> str:
    """The counts, and a line per column."""
    lines = [f"{calls.rows} calls derived again, {calls.changed} of them changed"]
    columns = sorted(calls.columns.items(), key=lambda column: -column[1])
    lines += [f"{number:>8}  {name}" for name, number in columns]
    if calls.outdated:
        lines.append(f"{calls.outdated:>8}  were made by another version of the decoders")
    if calls.unreadable:
        lines.append(f"{calls.unreadable:>8}  raw copies could not be read")
    return "\n".join(lines)
