"""Health: what spool, database and rows say about how well it works. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.sums import Fleet, SpoolSums, is_whole, lost_calls, oldest_waiting_s

MEMBERS_SHOWN = 200  # those that are silent first


class Question(Protocol):
    """What a count is about (`store.examine.Question`)."""

    @property
    def name(self) -> str: ...
    @property
    def meaning(self) -> str: ...
    @property
    def remedy(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that may be wrong with rows."""

    name: str
    calls: int
    meaning: str
    remedy: str


def fleet_context(fleet: Fleet | None) -> dict[str, Any]:
    """All gateways and recorders; None: NATS does not answer."""
    silent = [member for member in fleet.members if member.is_silent] if fleet else []
    return {
        "fleet": fleet,
        "fleet_lost": lost_calls(fleet) if fleet else 0,
        "members": [*silent, *(m for m in fleet.members if m not in silent)] if fleet else [],
        "members_shown": MEMBERS_SHOWN,
        "is_fleet_well": fleet is not None and not silent and not fleet.not_known,
    }


def spool_context(sums: SpoolSums) -> dict[str, Any]:
    """The identity and what stands around it; needs no database."""
    oldest_s = oldest_waiting_s(sums)
    return {
        "sums": sums,
        "lost": lost_calls(sums),
        "lost_by_reason": sorted((name, n) for name, n in sums.lost.items() if n),
        "is_whole": is_whole(sums),
        "lag_ms": None if oldest_s is None else round(oldest_s * 1000),
    }


def checks(questions: Sequence[Question], counts: Mapping[str, Any]) -> list[Check]:
    """The counts (`n0`, `n1` …) beside what they are about."""
    return [
        Check(question.name, counts[f"n{number}"], question.meaning, question.remedy)
        for number, question in enumerate(questions)
    ]
