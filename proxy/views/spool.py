"""Spool view: the totals of the spool for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from proxy.views.lines import duration


class Sums(Protocol):
    """The totals of all spools of one machine, added up (`spool.totals.Totals`)."""

    @property
    def captured(self) -> int: ...
    @property
    def stored(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def quarantined(self) -> int: ...
    @property
    def lost(self) -> Mapping[str, int]: ...  # by reason
    @property
    def truncated(self) -> int: ...
    @property
    def disk_bytes(self) -> int: ...
    @property
    def oldest_waiting_at(self) -> datetime | None: ...


def as_json(sums: Sums) -> dict[str, Any]:
    """The totals as plain values; ages in seconds, sizes in bytes."""
    return {
        "captured": sums.captured,
        "stored": sums.stored,
        "waiting": sums.waiting,
        "quarantined": sums.quarantined,
        "lost": dict(sums.lost),
        "truncated": sums.truncated,
        "oldest_waiting_s": _age_s(sums),
        "disk_bytes": sums.disk_bytes,
    }


def as_text(sums: Sums) -> str:
    """A few aligned lines: the conservation identity, age and size."""
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(sums.lost.items()) if n)
    age_s = _age_s(sums)
    rows = [
        ("captured", sums.captured, "calls of which a record was begun, ever"),
        ("stored", sums.stored, ""),
        ("waiting", sums.waiting, f"oldest {duration(int(age_s * 1000))}" if age_s else ""),
        ("quarantined", sums.quarantined, ""),
        ("lost", sum(sums.lost.values()), reasons),
        ("on disk", _size(sums.disk_bytes), ""),
    ]
    return "\n".join(f"{name:<12}{value:>10}  {note}".rstrip() for name, value, note in rows)


def _age_s(sums: Sums) -> float | None:
    since = sums.oldest_waiting_at
    return max(0.0, (datetime.now(UTC) - since).total_seconds()) if since else None


def _size(number: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"
