"""Sums: what the spools of a machine, or all of a fleet, say of captured calls.

One declaration of the readings that metrics, the status command and the health page show, and of
what follows from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol


class Sums(Protocol):
    """Totals of spools, added up (`spool.totals.Totals`, `fleet.members.Fleet`)."""

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


class SpoolSums(Sums, Protocol):
    """Those of one machine's own spools, which also know what damage they met."""

    @property
    def damaged(self) -> int: ...
    @property
    def torn(self) -> int: ...


class Member(Protocol):
    """One gateway machine or recorder, as it spoke last (`fleet.member.Member`)."""

    @property
    def role(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def program(self) -> str: ...
    @property
    def at(self) -> datetime: ...
    @property
    def is_silent(self) -> bool: ...
    @property
    def captured(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def lost(self) -> Mapping[str, int]: ...
    @property
    def stored(self) -> int: ...
    @property
    def in_hand(self) -> int: ...


class Fleet(Sums, Protocol):
    """All members, and the stream between them (`fleet.members.Fleet`)."""

    @property
    def members(self) -> Sequence[Member]: ...
    @property
    def gateways(self) -> Sequence[Member]: ...
    @property
    def recorders(self) -> Sequence[Member]: ...
    @property
    def calls_in_stream(self) -> int: ...
    @property
    def messages_in_stream(self) -> int: ...
    @property
    def stream_bytes(self) -> int: ...
    @property
    def not_known(self) -> Mapping[str, int]: ...


def lost_calls(sums: Sums | Member) -> int:
    """Lost for whatever reason."""
    return sum(sums.lost.values())


def is_whole(sums: Sums) -> bool:
    """Whether captured = stored + waiting + quarantined + lost."""
    return sums.captured == sums.stored + sums.waiting + sums.quarantined + lost_calls(sums)


def oldest_waiting_s(sums: Sums) -> float | None:
    """How long the oldest call has waited; None: none waits."""
    since = sums.oldest_waiting_at
    return None if since is None else age_s(since)


def age_s(since: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - since).total_seconds())
