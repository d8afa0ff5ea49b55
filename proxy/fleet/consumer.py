"""Consumer: one of many that share the messages of the stream.

What was taken is held until it is acknowledged: the servers are told now and then that somebody is
at it, so that an outage of the database gives nothing to another recorder for nothing. Whoever dies
stops telling, and after `nats.ack_wait_s` its messages go to another.

What is acknowledged is gone from the stream. A message that cannot be read, or whose call was
refused, is written into the bucket of what was set aside first, under the id of the captured
call; so each counts once, however often it is tried.
"""

from __future__ import annotations

import asyncio
import logging
import time
from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import orjson

from proxy.config import Nats
from proxy.errors import ProxyError, StreamUnavailable
from proxy.fleet.connection import Connection, translated
from proxy.fleet.large import Large, LargeStore
from proxy.fleet.message import Message, Unreadable
from proxy.fleet.pull import Pull
from proxy.fleet.received import Received
from proxy.fleet.stranded import Stranded
from proxy.fleet.stream import consumer_name, set_aside_bucket
from proxy.fleet.subjects import KNOWN
from proxy.log import event
from proxy.tasks import end, raise_ended

if TYPE_CHECKING:
    from nats.aio.msg import Msg

CLEAN_S = 2.0
STRANDED_S = 10.0  # between two looks
SWEEP_S = 3600.0


class Consumer:
    """Takes messages, ahead of whoever reads them by at most `ahead_max`."""

    def __init__(self, connection: Connection, settings: Nats, ahead_max: int) -> None:
        self._connection = connection
        self._settings = settings
        self._ahead_max = ahead_max
        self._large = LargeStore(connection, settings)
        self._stranded = Stranded(connection, settings)
        self._arrived: deque[Received] = deque()
        self._held: dict[int, Received] = {}  # by sequence, the arrived included
        self._read: deque[Large] = deque()  # objects whose message was acknowledged
        self._pulls = [self._pull(version) for version in KNOWN]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to take messages."""
        work = [pull.run() for pull in self._pulls]
        work += [self._keep_held(), self._keep_clean(), self._take_stranded()]
        self._tasks = [asyncio.create_task(each, name="consumer") for each in work]

    @property
    def held(self) -> int:
        return len(self._held)

    async def read(self, messages_max: int, bytes_max: int) -> list[Received]:
        """What has arrived and can be read. Never waits for more.

        Raises what ended the taking: nothing more would come, and nobody would say so.
        """
        raise_ended(self._tasks)
        taken: list[Received] = []
        while self._arrived and len(taken) < messages_max and bytes_max > 0:
            taken.append(self._arrived.popleft())
            bytes_max -= taken[-1].size_bytes
        for pull in self._pulls if taken else ():
            pull.look_again()
        missing = await self._fetch([each for each in taken if not each.data])
        # The bytes of one that is stranded were deleted when it had been dealt with.
        await self.acknowledge([each for each in missing if each.is_stranded])
        lost = [each for each in missing if not each.is_stranded]
        await self.set_aside(lost, "its bytes are not in the object store")
        whole = [each for each in taken if each.data]
        unreadable = await asyncio.to_thread(_open, whole) if whole else []
        await self.set_aside(unreadable, "the message cannot be read")
        return [each for each in whole if each.message is not None]

    async def acknowledge(self, done: Sequence[Received]) -> None:
        """These have been dealt with. What cannot be told now is given again."""
        await self._tell(done, b"+ACK")
        await self._stranded.delete(each for each in done if each.is_stranded)
        self._let_go(done)
        self._read += [each.large for each in done if each.large is not None]

    async def set_aside(self, refused: Sequence[Received], reason: str) -> None:
        """These cannot be stored. What cannot be noted now is given again."""
        for each in refused:
            event("message set aside", logging.ERROR, id=str(each.id), reason=reason)
            try:
                await self._note(each, reason)
            except ProxyError as error:
                event("not noted; given again", logging.WARNING, reason=str(error))
                self._let_go([each])
            else:
                await self.acknowledge([each])

    async def close(self) -> None:
        """Stop, and give back what is in hand."""
        await end(self._tasks)
        await self._tell(self._held.values(), b"-NAK")
        self._held.clear()
        self._arrived.clear()

    def _pull(self, version: int) -> Pull:
        return Pull(
            self._connection,
            self._settings.stream,
            consumer_name(version),
            room=lambda: self._ahead_max - len(self._arrived),
            arrived=self._take,
        )

    def _take(self, message: Msg) -> None:
        found = Received.given(message)
        known = self._held.get(found.sequence)
        if known is None:
            self._hold(found)
        elif known.id == found.id:
            known.reply = found.reply  # the servers took us for dead
        else:  # a server that numbers differently leads now: the reply would mean this one
            known.reply = ""
            self._hold(found)

    def _hold(self, found: Received) -> None:
        self._held[found.sequence] = found
        self._arrived.append(found)

    async def _fetch(self, large: Iterable[Received]) -> list[Received]:
        """The bytes of those that lie in the object store; returns those that have none there."""
        missing = []
        for each in large:
            try:
                each.large = await self._large.get(each.id)
            except StreamUnavailable as error:
                event("object not read yet", logging.WARNING, id=str(each.id), reason=str(error))
                self._arrived.append(each)
                continue
            if each.large is None:
                missing.append(each)
            else:
                each.data = each.large.data
        return missing

    async def _note(self, received: Received, reason: str) -> None:
        """Write it into the bucket; its bytes too, where nobody else can keep them."""
        value = {"reason": reason, "subject": received.subject}
        if received.message is None and len(received.data) * 2 < self._connection.payload_bytes_max:
            value["data"] = b64encode(received.data).decode()
        key = f"$KV.{set_aside_bucket(self._settings)}.{received.captured_id}"
        with translated():
            await self._connection.js.publish(key, orjson.dumps(value))

    def _let_go(self, received: Iterable[Received]) -> None:
        for each in received:
            if self._held.get(each.sequence) is each:
                del self._held[each.sequence]

    async def _tell(self, received: Iterable[Received], word: bytes) -> None:
        for each in [each for each in received if not each.is_stranded]:
            try:
                with translated():
                    await self._connection.client.publish(each.reply, word)
            except StreamUnavailable:
                return  # given again, and told then

    async def _keep_held(self) -> None:
        """Say of what is in hand that it is being worked on."""
        while True:
            await asyncio.sleep(self._settings.ack_wait_s / 3)
            await self._tell(self._held.values(), b"+WPI")

    async def _take_stranded(self) -> None:
        """Take what lies in the stream and is given to nobody.

        Not while such are in hand: they would be fetched again for as long as the database is away.
        """
        refusal = ""
        while True:
            await asyncio.sleep(STRANDED_S)
            if any(each.is_stranded for each in self._held.values()):
                continue
            try:
                found = await self._stranded.look()
            except ProxyError as error:
                if str(error) != refusal:
                    event("stranded not looked for", logging.WARNING, reason=str(error))
                refusal = str(error)
                continue
            refusal = ""
            self._hold_stranded([each for each in found if each.sequence not in self._held])

    def _hold_stranded(self, found: Sequence[Received]) -> None:
        if found:
            event("messages were given to nobody", logging.WARNING, number=len(found))
        for each in found:
            self._hold(each)

    async def _keep_clean(self) -> None:
        """Delete what was read, and now and then what others left behind."""
        swept_at = time.monotonic()
        while True:
            await asyncio.sleep(CLEAN_S)
            try:
                for _ in range(len(self._read)):
                    if not await self._large.delete(self._read[0]):
                        self._read.append(self._read[0])
                    self._read.popleft()
                if time.monotonic() > swept_at + SWEEP_S:
                    swept_at = time.monotonic()
                    await self._large.sweep()
            except ProxyError as error:
                event("object store not cleaned", logging.WARNING, reason=str(error))


def _open(received: Sequence[Received]) -> list[Received]:
    """Read each message; returns those that cannot be read."""
    unreadable = []
    for each in received:
        try:
            each.message = Message.from_bytes(each.data)
        except Unreadable:
            unreadable.append(each)
    return unreadable
