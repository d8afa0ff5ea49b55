"""Spool view: the totals of the spool for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.views.lines import count, duration


def as_text(sums: Mapping[str, Any]) -> str:
    """A few aligned lines: the conservation identity, age and size."""
    lost: Mapping[str, int] = sums["lost"]
    total_lost = sum(lost.values())
    reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(lost.items()) if number)
    rows = [
        ("captured", f"{sums['captured']:>10}"),
        ("stored", f"{sums['stored']:>10}"),
        ("waiting", f"{sums['waiting']:>10}" + _age(sums)),
        ("quarantined", f"{sums['quarantined']:>10}"),
        ("lost", f"{total_lost:>10}" + (f"  ({reasons})" if reasons else "")),
        ("on disk", f"{_size(sums['bytes_on_disk']):>10}"),
    ]
    return "\n".join(f"{name:<12}{value}" for name, value in rows)


def _age(sums: Mapping[str, Any]) -> str:
    age_s = sums.get("oldest_waiting_s") or 0
    return f"  (oldest {duration(int(age_s * 1000))})" if sums["waiting"] and age_s else ""


def _size(number: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{count(number)} B"
