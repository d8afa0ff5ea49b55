"""Departed: gateways that have been silent for so long that their disk is taken to be gone.

Pods come and go; what each captured stays in the sums. A recorder moves the totals of those that
are gone from their own keys of the bucket into one, with what was still waiting on them as lost.
One that comes back after all is moved out again, and its calls wait as before.

Everything is one value under one key, replaced only where nobody else has replaced it meanwhile. A
member that stands both there and under its own key, because somebody died between the two writes,
is counted as departed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson

from proxy.fleet.connection import Connection, translated
from proxy.fleet.member import GATEWAY, Member

if TYPE_CHECKING:
    from nats.js.errors import APIError

KEY = "departed"
GONE_S = 86_400.0
KNOWN_MAX = 2000  # of whom it is kept who they were; of the others only the sums
LOSS = "gone"  # with the disk of their sidecar
_OTHERS = (10071, 10164)  # JetStream: the last revision is another


@dataclass(frozen=True, slots=True)
class Departed:
    """Those that are gone, the longest gone first, and the sums of those before them."""

    known: Mapping[str, Member] = field(default_factory=dict)
    rest: Member | None = None
    revision: int = 0

    @property
    def members(self) -> list[Member]:
        """As they count: nothing waits, since nobody can bring it any more."""
        found = [*self.known.values(), *([self.rest] if self.rest else [])]
        return [_without_waiting(member) for member in found]

    def with_more(self, gone: Iterable[Member]) -> Departed:
        known = {**self.known, **{member.id: member for member in gone}}
        rest = self.rest
        for id in list(known)[: max(0, len(known) - KNOWN_MAX)]:
            rest = _added(rest, _without_waiting(known.pop(id)))
        return replace(self, known=known, rest=rest)

    def without(self, id: str) -> Departed:
        return replace(self, known={k: v for k, v in self.known.items() if k != id})

    def to_bytes(self) -> bytes:
        return orjson.dumps({"known": list(self.known.values()), "rest": self.rest})

    @classmethod
    def from_bytes(cls, data: bytes, revision: int) -> Departed:
        raw = orjson.loads(data)
        members = [Member.from_bytes(orjson.dumps(each)) for each in (*raw["known"], raw["rest"])]
        *known, rest = members
        return cls({each.id: each for each in known if each}, rest, revision)


async def read(connection: Connection, bucket: str) -> Departed:
    """Raises as `translated` does."""
    from nats.js.errors import NotFoundError

    with translated():
        try:
            found = await connection.js.get_last_msg(f"KV_{bucket}", f"$KV.{bucket}.{KEY}")
        except NotFoundError:
            return Departed()
    return Departed.from_bytes(found.data or b"{}", found.seq or 0)


async def write(connection: Connection, bucket: str, departed: Departed) -> bool:
    """False: somebody else was first. Raises as `translated` does."""
    from nats.js.errors import APIError

    expected = {"Nats-Expected-Last-Subject-Sequence": str(departed.revision)}
    with translated():
        try:
            await connection.js.publish(
                f"$KV.{bucket}.{KEY}", departed.to_bytes(), headers=expected
            )
        except APIError as error:
            if _is_late(error):
                return False
            raise
    return True


def are_gone(members: Iterable[Member], now: datetime) -> list[Member]:
    """The gateways that have said nothing for too long."""
    gateways = (member for member in members if member.role == GATEWAY)
    return [each for each in gateways if (now - each.at).total_seconds() > GONE_S]


def _is_late(error: APIError) -> bool:
    return error.err_code in _OTHERS


def _without_waiting(member: Member) -> Member:
    if not member.waiting:
        return member
    lost = dict(member.lost)
    lost[LOSS] = lost.get(LOSS, 0) + member.waiting
    return replace(member, lost=lost)


def _added(sum_of: Member | None, member: Member) -> Member:
    if sum_of is None:
        sum_of = Member(GATEWAY, "others", "", "", datetime.fromtimestamp(0, UTC))
    lost = {
        reason: sum_of.lost.get(reason, 0) + member.lost.get(reason, 0)
        for reason in {*sum_of.lost, *member.lost}
    }
    return replace(
        sum_of,
        captured=sum_of.captured + member.captured,
        forwarded=sum_of.forwarded + member.forwarded,
        quarantined=sum_of.quarantined + member.quarantined,
        truncated=sum_of.truncated + member.truncated,
        lost=lost,
    )
