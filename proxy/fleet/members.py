"""Members: what each gateway and recorder says of itself, and the sums of the fleet.

The forwarder beside each gateway writes the totals of its spool into the bucket when they have
changed, at most once a second; so does each recorder with what it did. Who is killed stays there
with what it said last.

    captured = stored + waiting + quarantined + lost, over the fleet

A spool that is forwarded counts as stored what the stream has taken. So over the fleet

    captured     what all spools captured
    lost         what all spools lost
    quarantined  what all spools set aside, and the captured calls in the bucket of what recorders
                 set aside (by id: each once), until a resubmit stores them
    stored       what all spools have forwarded, less what the stream still holds and what was
                 set aside
    waiting      the rest: in spools, and in the stream

The terms are read one after the other, spools last. What is forwarded in between, and in the second
in which a sidecar has not said so yet, is counted as waiting or as stored for that long; the sum
is right in every reading. A call that was sent twice counts twice as waiting while both are
there. A socket counts as stored when the stream has all its calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from proxy.config import Nats
from proxy.fleet import departed as departing
from proxy.fleet.connection import Connection, translated
from proxy.fleet.member import GATEWAY, RECORDER, Member
from proxy.fleet.stream import fleet_bucket, set_aside_bucket
from proxy.fleet.subjects import CALL, KNOWN, Subjects

if TYPE_CHECKING:
    from nats.js.api import StreamInfo

WATCH_S = 10.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """All members, and what the stream holds, in one reading."""

    members: tuple[Member, ...] = ()
    departed: tuple[Member, ...] = ()  # they count, and are not shown
    calls_in_stream: int = 0  # captured calls; parts of sockets are not among them
    messages_in_stream: int = 0
    stream_bytes: int = 0
    large_bytes: int = 0
    not_known: Mapping[str, int] = field(default_factory=dict)  # messages by later version
    set_aside: int = 0

    @property
    def gateways(self) -> list[Member]:
        return [member for member in self.members if member.role == GATEWAY]

    @property
    def recorders(self) -> list[Member]:
        return [member for member in self.members if member.role == RECORDER]

    @property
    def _counted(self) -> list[Member]:
        return [*self.gateways, *self.departed]

    @property
    def captured(self) -> int:
        return sum(member.captured for member in self._counted)

    @property
    def stored(self) -> int:
        forwarded = sum(member.forwarded for member in self._counted)
        return max(0, forwarded - self.calls_in_stream - self.set_aside)

    @property
    def quarantined(self) -> int:
        return self.set_aside + sum(member.quarantined for member in self._counted)

    @property
    def lost(self) -> Mapping[str, int]:
        total: dict[str, int] = {}
        for member in self._counted:
            for reason, number in member.lost.items():
                total[reason] = total.get(reason, 0) + number
        return total

    @property
    def waiting(self) -> int:
        return self.captured - self.stored - self.quarantined - sum(self.lost.values())

    @property
    def truncated(self) -> int:
        return sum(member.truncated for member in self._counted)

    @property
    def disk_bytes(self) -> int:
        """Of the spools and, once, of the stream."""
        spools = sum(member.disk_bytes for member in self.gateways)
        return spools + self.stream_bytes + self.large_bytes

    @property
    def oldest_waiting_at(self) -> datetime | None:
        """In a spool; what lies in the stream is younger or a recorder's business."""
        return min(
            (m.oldest_waiting_at for m in self.gateways if m.oldest_waiting_at), default=None
        )


class Members:
    """The bucket. Everything raises as `translated` does."""

    def __init__(self, connection: Connection, settings: Nats) -> None:
        self._connection = connection
        self._settings = settings
        self._bucket = fleet_bucket(settings)

    async def say(self, member: Member) -> None:
        """Write what a member says of itself."""
        with translated():
            await self._connection.js.publish(self._key(member.key), member.to_bytes())

    async def leave(self, member: Member) -> None:
        """Forget a member that has nothing more to say, and never will."""
        with translated():
            await self._connection.js.purge_stream(
                f"KV_{self._bucket}", subject=self._key(member.key)
            )

    async def take_back(self, captured: UUID) -> None:
        """This call is set aside no longer: it was stored. Of others nothing is known, or done."""
        bucket = set_aside_bucket(self._settings)
        with translated():
            await self._connection.js.purge_stream(
                f"KV_{bucket}", subject=f"$KV.{bucket}.{captured}"
            )

    async def read(self) -> Fleet:
        """The fleet now."""
        js, settings = self._connection.js, self._settings
        subjects = Subjects(settings.subject_prefix)
        with translated():
            info = await js.stream_info(settings.stream, subjects_filter=subjects.everything)
            aside = await js.stream_info(f"KV_{set_aside_bucket(settings)}")
            large = await js.stream_info(f"OBJ_{settings.stream}_large")
        by_kind = _by_kind(subjects, info)
        departed = await departing.read(self._connection, self._bucket)
        return Fleet(
            tuple(m for m in await self._members() if m.id not in departed.known),
            tuple(departed.members),
            calls_in_stream=sum(n for (_, kind), n in by_kind.items() if kind == CALL),
            messages_in_stream=info.state.messages,
            stream_bytes=info.state.bytes,
            large_bytes=large.state.bytes,
            not_known=_not_known(by_kind),
            set_aside=aside.state.messages,
        )

    async def depart(self, now: datetime) -> int:
        """Move the gateways that are gone out of the way; returns how many."""
        gone = departing.are_gone(await self._members(), now)
        if not gone:
            return 0
        before = await departing.read(self._connection, self._bucket)
        if not await departing.write(self._connection, self._bucket, before.with_more(gone)):
            return 0  # another does it
        for member in gone:
            await self.leave(member)
        return len(gone)

    async def come_back(self, id: str) -> None:
        """Count a gateway as itself again, once it has spoken, if it was taken to be gone."""
        while True:
            before = await departing.read(self._connection, self._bucket)
            if id not in before.known:
                return
            if await departing.write(self._connection, self._bucket, before.without(id)):
                return

    async def not_known(self) -> Mapping[str, int]:
        """Messages of a later version than this program reads, by version."""
        subjects = Subjects(self._settings.subject_prefix)
        with translated():
            info = await self._connection.js.stream_info(
                self._settings.stream, subjects_filter=subjects.everything
            )
        return _not_known(_by_kind(subjects, info))

    async def _members(self) -> list[Member]:
        found: list[Member] = []
        stream = f"KV_{self._bucket}"
        with translated():
            info = await self._connection.js.stream_info(stream)
            if not info.state.messages:
                return []
            subscription = await self._connection.js.subscribe(
                self._key(">"), stream=stream, ordered_consumer=True
            )
            try:
                async with asyncio.timeout(WATCH_S):
                    async for message in subscription.messages:
                        member = Member.from_bytes(message.data)
                        if member is not None:
                            found.append(member)
                        if message.metadata.num_pending == 0:
                            break
            finally:
                with contextlib.suppress(Exception):
                    await subscription.unsubscribe()
        return sorted(found, key=lambda member: (member.role, member.host, member.id))

    def _key(self, key: str) -> str:
        return f"$KV.{self._bucket}.{key}"


def _by_kind(subjects: Subjects, info: StreamInfo) -> Counter[tuple[str, str]]:
    """Messages in the stream by version and kind."""
    counted: Counter[tuple[str, str]] = Counter()
    for subject, number in (info.state.subjects or {}).items():
        counted[subjects.kind(subject)] += number
    return counted


def _not_known(by_kind: Mapping[tuple[str, str], int]) -> dict[str, int]:
    known = {f"v{version}" for version in KNOWN}
    counted: Counter[str] = Counter()
    for (version, _), number in by_kind.items():
        if version not in known:
            counted[version] += number
    return dict(counted)
