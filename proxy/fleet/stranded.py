"""Stranded: messages that are in the stream and that nobody is given any more.

Servers that are killed may disagree afterwards: a copy of the stream holds what the state of the
consumer calls acknowledged, because it was away when that was said, or because it gave the number
to another message. Nothing is owed for these any more; they would lie there, and count as
waiting, for ever. So a recorder takes them by their number, like any other, and deletes them when
they have been dealt with. Mostly their rows are there already, and stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from proxy.config import Nats
from proxy.errors import StreamMisconfigured, StreamUnavailable
from proxy.fleet.connection import Connection, translated
from proxy.fleet.received import Received, id_of
from proxy.fleet.stream import consumer_name
from proxy.fleet.subjects import KNOWN, Subjects

if TYPE_CHECKING:
    from nats.js.api import ConsumerInfo, RawStreamMsg

AT_ONCE_MAX, AT_ONCE_BYTES_MAX = 1000, 32 * 1024 * 1024  # of each version, in one look


class Stranded:
    """Looks after one stream. Everything but `delete` raises as `translated` does."""

    def __init__(self, connection: Connection, settings: Nats) -> None:
        self._connection = connection
        self._stream = settings.stream
        self._subjects = Subjects(settings.subject_prefix)
        self._seen: frozenset[int] = frozenset()

    async def look(self) -> list[Received]:
        """Those that the last look saw too: what is being acknowledged is gone by the next."""
        found = [each for version in KNOWN for each in await self._not_owed(version)]
        seen, self._seen = self._seen, frozenset(each.sequence for each in found)
        return [each for each in found if each.sequence in seen]

    async def delete(self, done: Iterable[Received]) -> None:
        """Forget what has been dealt with. What cannot be deleted now is found again."""
        with contextlib.suppress(StreamUnavailable):  # nor would the next be, and waits as long
            for each in done:
                with contextlib.suppress(StreamMisconfigured):  # another was first, for example
                    await self._delete(each)

    async def _delete(self, done: Received) -> None:
        js = self._connection.js
        with translated():
            # By now another server may lead, which has another message under this number.
            if id_of((await js.get_msg(self._stream, done.sequence)).headers) == done.id:
                await js.delete_msg(self._stream, done.sequence)

    async def _not_owed(self, version: int) -> list[Received]:
        js = self._connection.js
        with translated():
            state = (await js.stream_info(self._stream)).state
            consumer = await js.consumer_info(self._stream, consumer_name(version))
        last, number = settled_to(consumer, state.last_seq), state.first_seq
        found: list[Received] = []
        room_bytes = AT_ONCE_BYTES_MAX
        while state.messages and number <= last and len(found) < AT_ONCE_MAX and room_bytes > 0:
            message = await self._next(version, number)
            if message is None or (message.seq or 0) > last:
                break
            found.append(Received.found(message))
            number = found[-1].sequence + 1
            room_bytes -= found[-1].size_bytes
        return found

    async def _next(self, version: int, number: int) -> RawStreamMsg | None:
        """The first message from this number on."""
        from nats.js.errors import NotFoundError

        subject = self._subjects.of_version(version)
        with translated():
            try:
                return await self._connection.js.get_msg(
                    self._stream, number, subject=subject, next=True
                )
            except NotFoundError:
                return None


def settled_to(consumer: ConsumerInfo, newest: int) -> int:
    """The number up to which nothing is owed, of a stream whose newest message has `newest`."""
    if not consumer.num_pending and not consumer.num_ack_pending:
        return newest  # whatever the consumer's own server calls it
    reached = consumer.ack_floor if consumer.num_ack_pending else consumer.delivered
    return reached.stream_seq if reached else 0
