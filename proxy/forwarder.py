"""Forwarder: takes what the gateways of this machine captured to the stream. Store and forward.

One process beside the gateways, the one reader of their spool. The spool forgets a call when a
replicated stream has taken it; so while NATS is away, or full, calls wait here. A call is sent
until it is taken: where that was not heard of, it is sent again, and a message with the same id
is taken once. Sockets are cut into calls here, since their parts have to be read in order by one
process; a socket is forgotten when all its calls have been taken.

Many messages are on their way at a time, within a window; one that is refused holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from dataclasses import replace

from proxy.attempts import TRIES_MAX, Attempts
from proxy.errors import StreamMisconfigured, StreamUnavailable
from proxy.fleet.message import Message
from proxy.fleet.publisher import Packed, Publisher
from proxy.log import event
from proxy.sockets import CutCall
from proxy.source import Delivery, Source
from proxy.tasks import end

WINDOW_CALLS, WINDOW_BYTES = 256, 32 * 1024 * 1024
IDLE_S = 0.02
RETRY_FIRST_S, RETRY_MAX_S = 0.05, 2.0
_FATAL = f"packing it ended the forwarder {TRIES_MAX} times"


class _Outstanding:
    """A delivery and how many of its messages have not been taken yet."""

    __slots__ = ("delivery", "messages")

    def __init__(self, delivery: Delivery, messages: int) -> None:
        self.delivery = delivery
        self.messages = messages


class Forwarder:
    """Moves calls from one source into one stream."""

    def __init__(self, source: Source, publisher: Publisher, attempts: Attempts) -> None:
        self._source = source
        self._publisher = publisher
        self._attempts = attempts
        self._sending: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._taken: list[Delivery] = []
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._said = ""

    def stop(self) -> None:
        """Ask `run` to return once what is in the spool has been taken."""
        self._stopping.set()
        self._news.set()

    async def run(self) -> None:
        """Work until stopped. Cancelled, it leaves the rest in the spool."""
        try:
            while True:
                is_last = self._stopping.is_set()
                found = await self._next()
                await self._settle()
                if not found and not self._sending and is_last:
                    return
                await self._wait(is_idle=not found)
        finally:
            await end(self._sending)
            await self._settle()

    async def _next(self) -> Sequence[Delivery]:
        """Begin to send what is there, as far as the window allows."""
        room = WINDOW_CALLS - len(self._sending)
        room_bytes = WINDOW_BYTES - self._bytes
        if room <= 0 or room_bytes <= 0:
            return ()
        found = await self._source.read(room, room_bytes)
        if not found:
            return ()
        given_up: list[Delivery] = []
        for delivery, messages in await asyncio.to_thread(self._packed, found, given_up):
            outstanding = _Outstanding(delivery, len(messages))
            if not messages and delivery not in given_up:
                self._taken.append(delivery)
            for packed in messages:
                self._begin(packed, outstanding)
        if given_up:
            await self._source.acknowledge([], given_up)
        return found

    def _packed(
        self, found: Sequence[Delivery], given_up: list[Delivery]
    ) -> list[tuple[Delivery, list[Packed]]]:
        with self._attempts.batch(sum(delivery.size_bytes for delivery in found)):
            return [(each, self._messages(each, given_up)) for each in found]

    def _messages(self, delivery: Delivery, given_up: list[Delivery]) -> list[Packed]:
        """The calls that ended with this delivery, unless looking into it ends the process."""
        if not self._attempts.are_spent(delivery.id):
            with self._attempts.at(delivery.id):
                return [*map(_pack, delivery.calls())]
        event("call given up", logging.ERROR, id=str(delivery.id), reason=_FATAL)
        if delivery.exchange is None:
            given_up.append(delivery)
            return []
        bare = replace(delivery.exchange, request=b"", response=())
        return [_pack(CutCall(bare, (_FATAL,)))]

    def _begin(self, packed: Packed, outstanding: _Outstanding) -> None:
        self._bytes += len(packed.data)
        task = asyncio.create_task(self._send(packed, outstanding), name="send")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, packed: Packed, outstanding: _Outstanding) -> None:
        """Send until it is taken."""
        pause_s = RETRY_FIRST_S
        try:
            while not await self._is_sent(packed):
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
                pause_s = min(RETRY_MAX_S, pause_s * 2)
            outstanding.messages -= 1
            if not outstanding.messages:
                self._taken.append(outstanding.delivery)
        finally:
            self._bytes -= len(packed.data)
            self._news.set()

    async def _is_sent(self, packed: Packed) -> bool:
        try:
            await self._publisher.publish(packed)
        except (StreamUnavailable, StreamMisconfigured) as error:
            if not self._said:
                self._said = str(error)
                event("stream refuses; calls wait in the spool", logging.ERROR, reason=self._said)
            return False
        if self._said:
            self._said = ""
            event("stream takes calls again")
        return True

    async def _settle(self) -> None:
        taken, self._taken = self._taken, []
        if taken:
            await self._source.acknowledge(taken)

    async def _wait(self, *, is_idle: bool) -> None:
        """Until there may be something to do."""
        self._news.clear()
        if self._taken:
            return
        if not is_idle and len(self._sending) < WINDOW_CALLS and self._bytes < WINDOW_BYTES:
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), IDLE_S)


def _pack(call: CutCall) -> Packed:
    start = call.exchange.start
    data = Message(call.exchange, call.problems).to_bytes()
    return Packed(start.id, start.labels.project, start.socket is not None, data)
