"""Health: what spool, database and rows say about how well it works. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

MEMBERS_SHOWN = 200  # those that are silent first


class Sums(Protocol):
    """The totals of all spools of one machine (`spool.totals.Totals`)."""

    @property
    def captured(self) -> int: ...
    @property
    def stored(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def quarantined(self) -> int: ...
    @property
    def lost(self) -> Mapping[str, int]: ...
    @property
    def truncated(self) -> int: ...
    @property
    def damaged(self) -> int: ...
    @property
    def torn(self) -> int: ...
    @property
    def disk_bytes(self) -> int: ...
    @property
    def oldest_waiting_at(self) -> datetime | None: ...


class Member(Protocol):
    """One gateway machine or recorder (`fleet.members.Member`)."""

    @property
    def role(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def program(self) -> str: ...
    @property
    def at(self) -> datetime: ...
    @property
    def is_silent(self) -> bool: ...
    @property
    def waiting(self) -> int: ...
    @property
    def in_hand(self) -> int: ...


class Fleet(Protocol):
    """All of them, and the stream between them (`fleet.members.Fleet`)."""

    @property
    def members(self) -> Sequence[Member]: ...
    @property
    def captured(self) -> int: ...
    @property
    def stored(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def quarantined(self) -> int: ...
    @property
    def lost(self) -> Mapping[str, int]: ...
    @property
    def messages_in_stream(self) -> int: ...
    @property
    def stream_bytes(self) -> int: ...
    @property
    def not_known(self) -> Mapping[str, int]: ...


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
        "fleet_lost": sum(fleet.lost.values()) if fleet else 0,
        "members": [*silent, *(m for m in fleet.members if m not in silent)] if fleet else [],
        "members_shown": MEMBERS_SHOWN,
        "is_fleet_well": fleet is not None and not silent and not fleet.not_known,
    }


def spool_context(sums: Sums, now: datetime) -> dict[str, Any]:
    """The identity and what stands around it; needs no database."""
    lost = sum(sums.lost.values())
    oldest = sums.oldest_waiting_at
    lag_ms = None if oldest is None else max(0, round((now - oldest).total_seconds() * 1000))
    return {
        "sums": sums,
        "lost": lost,
        "lost_by_reason": sorted((name, n) for name, n in sums.lost.items() if n),
        "is_whole": sums.captured == sums.stored + sums.waiting + sums.quarantined + lost,
        "lag_ms": lag_ms,
    }


def checks(questions: Sequence[Question], counts: Mapping[str, Any]) -> list[Check]:
    """The counts (`n0`, `n1` …) beside what they are about."""
    return [
        Check(question.name, counts[f"n{number}"], question.meaning, question.remedy)
        for number, question in enumerate(questions)
    ]
