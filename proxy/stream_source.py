"""Stream source: calls that gateways on other machines captured, taken from NATS JetStream.

The second implementation of `source.Source`. Any number of recorders share the stream. Sockets were
cut into calls by the forwarder, so what comes from here is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from proxy.errors import ProxyError, StreamUnavailable
from proxy.exchange import Exchange
from proxy.fleet.connection import Connection
from proxy.fleet.consumer import Consumer
from proxy.fleet.member import Member
from proxy.fleet.members import Members
from proxy.fleet.message import Message
from proxy.fleet.received import Received
from proxy.log import event
from proxy.membership import recorder, say_at_last, speak
from proxy.sockets import CutCall
from proxy.source import Delivery
from proxy.tasks import end, raise_ended

RETRIEVED_S = 600.0  # for the call that a retrieval completes to come from another sidecar
LOOK_AFTER_S = 60.0
_REFUSED = "its row was refused"


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    """A call that was taken from the stream."""

    received: Received
    message: Message

    @property
    def id(self) -> UUID:
        return self.received.id

    @property
    def size_bytes(self) -> int:
        return self.received.size_bytes

    @property
    def exchange(self) -> Exchange:
        return self.message.exchange

    def calls(self) -> list[CutCall]:
        return [CutCall(self.message.exchange, self.message.problems)]


class StreamSource:
    """What one recorder takes of the stream, from the first reading on."""

    def __init__(self, connection: Connection, consumer: Consumer, members: Members) -> None:
        self._connection = connection
        self._consumer = consumer
        self._members = members
        self._id = str(uuid4())
        self._speaking: list[asyncio.Task[None]] = []
        self._stored = 0

    async def read(self, calls_max: int, bytes_max: int) -> list[Delivery]:
        """What has arrived. Raises StreamUnavailable where nothing will come any more.

        What ends a task beside it is raised too: the process begins anew then.
        """
        if self._connection.over.is_set():
            raise StreamUnavailable("NATS: the connection was refused or given up")
        if not self._speaking:
            self._consumer.start()
            self._speaking = [
                asyncio.create_task(speak(self._members, self._member), name="members"),
                asyncio.create_task(self._look_after(), name="look after"),
            ]
        raise_ended(self._speaking)
        found = await self._consumer.read(calls_max, bytes_max)
        return [_Taken(each, each.message) for each in found if each.message is not None]

    async def acknowledge(
        self, stored: Sequence[Delivery], set_aside: Sequence[Delivery] = ()
    ) -> None:
        """What NATS does not hear of is given again, to whichever recorder."""
        self._stored += len(stored)
        await self._consumer.acknowledge(_received(stored))
        await self._consumer.set_aside(_received(set_aside), _REFUSED)

    def is_last(self, delivery: Delivery) -> bool:
        """Other sidecars may be behind; they are waited for, but not for ever."""
        received = _received([delivery])
        return not received or time.time() > received[0].sent_at + RETRIEVED_S

    async def close(self) -> None:
        """Give back what is in hand, and leave the fleet."""
        await end(self._speaking)
        await self._consumer.close()
        if self._connection.is_usable:
            await say_at_last(self._members, self._member())
        await self._connection.close()

    async def _look_after(self) -> None:
        """Say what only a newer recorder can read; move gateways that are gone out of the way."""
        while True:
            with contextlib.suppress(ProxyError):
                if found := await self._members.not_known():
                    event("messages wait for a newer recorder", logging.WARNING, by_version=found)
                if gone := await self._members.depart(datetime.now(UTC)):
                    event("gateways are gone", logging.WARNING, gateways=gone)
            await asyncio.sleep(LOOK_AFTER_S)

    def _member(self) -> Member:
        return recorder(self._id, stored=self._stored, in_hand=self._consumer.held)


def _received(deliveries: Sequence[Delivery]) -> list[Received]:
    return [each.received for each in dict.fromkeys(deliveries) if isinstance(each, _Taken)]
