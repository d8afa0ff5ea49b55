"""Pull: asks a consumer for messages, as many as there is room for, and again when they have come.

One request stands at the servers at a time; it ends when it is filled, when the server says so, or
when it expires. What the server says has the subject of its request, so that a late word ends no
other; a message has its own subject, so a late one counts for the request of now.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.errors import StreamUnavailable
from proxy.fleet.connection import Connection, translated

if TYPE_CHECKING:
    from nats.aio.msg import Msg

EXPIRES_S = 5.0
GRACE_S = 1.0  # for the server to say that a request has expired
PAUSE_S = 0.25  # after a request that was refused
BYTES_MAX = 32 * 1024 * 1024  # of one request
_HEARTBEAT = "100"


class Pull:
    """Takes from one consumer and hands each message to `arrived`."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        *,
        room: Callable[[], int],
        arrived: Callable[[Msg], None],
    ) -> None:
        self._client = connection.client
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._room = room
        self._arrived = arrived
        self._inbox = self._client.new_inbox()
        self._bytes_max = max(BYTES_MAX, connection.payload_bytes_max)
        self._reply = ""
        self._missing = 0
        self._is_over = asyncio.Event()
        self._has_room = asyncio.Event()

    def look_again(self) -> None:
        """There may be room now."""
        self._has_room.set()

    async def run(self) -> None:
        """Work until cancelled."""
        subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)
        try:
            for number in itertools.count():
                await self._wait_for_room()
                await self._ask(number, self._room())
        finally:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()

    async def _wait_for_room(self) -> None:
        while self._room() <= 0:
            self._has_room.clear()
            await self._has_room.wait()

    async def _ask(self, number: int, batch: int) -> None:
        self._reply, self._missing = f"{self._inbox}.{number}", batch
        self._is_over.clear()
        request = {"batch": batch, "max_bytes": self._bytes_max, "expires": int(EXPIRES_S * 1e9)}
        try:
            with translated():
                await self._client.publish(self._next, json.dumps(request).encode(), self._reply)
            async with asyncio.timeout(EXPIRES_S + GRACE_S):
                await self._is_over.wait()
        except (StreamUnavailable, TimeoutError):
            pass  # the client connects again by itself
        if self._missing == batch:
            await asyncio.sleep(PAUSE_S)

    async def _answered(self, message: Msg) -> None:
        status = message.headers.get("Status") if message.headers else None
        if status == _HEARTBEAT:
            return
        if status is None:
            self._arrived(message)
            self._missing -= 1
        if self._missing <= 0 or message.subject == self._reply:
            self._is_over.set()
