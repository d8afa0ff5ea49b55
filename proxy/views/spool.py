"""Spool view: the totals of the spool for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from proxy.sums import Sums, lost_calls, oldest_waiting_s
from proxy.views.lines import duration


class Check(Protocol):
    """An independent look at one slot (`spool.verify.SlotCheck`)."""

    @property
    def slot(self) -> int: ...
    @property
    def totals(self) -> Sums: ...
    @property
    def segments(self) -> int: ...
    @property
    def records(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def unnoticed(self) -> int: ...
    @property
    def problems(self) -> tuple[str, ...]: ...
    @property
    def is_consistent(self) -> bool: ...


class Quarantined(Protocol):
    """Calls that are set aside for one reason (`store.raw.Quarantined`)."""

    @property
    def reason(self) -> str: ...
    @property
    def calls(self) -> int: ...
    @property
    def oldest(self) -> datetime: ...
    @property
    def newest(self) -> datetime: ...
    @property
    def bytes(self) -> int: ...


class Resubmitted(Protocol):
    """What became of calls that were tried again (`resubmit.Resubmitted`)."""

    @property
    def stored(self) -> int: ...
    @property
    def refused(self) -> Mapping[str, int]: ...  # by reason


def as_json(sums: Sums) -> dict[str, Any]:
    """The totals as plain values; ages in seconds, sizes in bytes."""
    return {
        "captured": sums.captured,
        "stored": sums.stored,
        "waiting": sums.waiting,
        "quarantined": sums.quarantined,
        "lost": dict(sums.lost),
        "truncated": sums.truncated,
        "oldest_waiting_s": oldest_waiting_s(sums),
        "disk_bytes": sums.disk_bytes,
    }


def as_text(sums: Sums) -> str:
    """A few aligned lines: the conservation identity, age and size."""
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(sums.lost.items()) if n)
    age_s = oldest_waiting_s(sums)
    rows = [
        ("captured", sums.captured, "calls of which a record was begun, ever"),
        ("stored", sums.stored, ""),
        ("waiting", sums.waiting, f"oldest {duration(int(age_s * 1000))}" if age_s else ""),
        ("quarantined", sums.quarantined, ""),
        ("lost", lost_calls(sums), reasons),
        ("on disk", size(sums.disk_bytes), ""),
    ]
    return "\n".join(f"{name:<12}{value:>10}  {note}".rstrip() for name, value, note in rows)


def check_as_json(check: Check) -> dict[str, Any]:
    """What was found in one slot, and what its totals say, as plain values."""
    return {
        "slot": check.slot,
        "segments": check.segments,
        "records": check.records,
        "waiting": check.waiting + check.unnoticed,
        "waiting_by_totals": check.totals.waiting,
        "is_consistent": check.is_consistent,
        "problems": list(check.problems),
    }


def checks_as_text(checks: Sequence[Check]) -> str:
    """A line per slot, one per problem, and the verdict."""
    lines = []
    for check in checks:
        counted = check.waiting + check.unnoticed
        lines.append(
            f"slot {check.slot}: {check.segments} segments, {check.records} records, "
            f"{counted} calls wait, {check.totals.waiting} by the totals"
        )
        lines += [f"  {problem}" for problem in check.problems]
        if not check.is_consistent:
            lines.append("  the totals differ from what is there")
    is_good = all(check.is_consistent and not check.problems for check in checks)
    return "\n".join((*lines, "good" if is_good else "not good"))


def quarantined_as_text(found: Sequence[Quarantined]) -> str:
    """A line per reason."""
    if not found:
        return "nothing is set aside"
    return "\n".join(
        f"{each.calls:>8}  {each.reason}  {each.oldest:%Y-%m-%d %H:%M} to "
        f"{each.newest:%Y-%m-%d %H:%M}  {size(each.bytes)}"
        for each in found
    )


def resubmitted_as_text(done: Resubmitted) -> str:
    """How many calls are stored now, and why the others are not."""
    lines = [f"{number:>8}  refused again: {why}" for why, number in sorted(done.refused.items())]
    return "\n".join((f"{done.stored:>8}  stored", *lines))


def size(number: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"
