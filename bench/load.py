"""Load: calls over kept connections, with little more than a parser in C between them.

Three shapes: `saturated` (each connection asks again at once), `paced` (a fixed rate, whatever the
answers take), and `streams` (many at a time, each to its end). All return what was seen.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

_STAMP = re.compile(rb"@(\d+)@")
_EVENT = b'data: {"id"'
SAMPLED = 32  # connections whose events are looked into
LATE_S = 60.0  # what open calls are given to end


@dataclass(slots=True)
class Seen:
    """What a load generator saw. Times in seconds."""

    calls: int = 0
    failed: int = 0
    events: int = 0
    first_byte_s: list[float] = field(default_factory=list)
    delay_s: list[float] = field(default_factory=list)  # of events, from the provider's write
    gap_s: list[float] = field(default_factory=list)  # between events of one stream
    took_s: float = 0.0


class Connection(asyncio.Protocol):
    """Asks when told to; `done` is called after each answer."""

    def __init__(self, seen: Seen, done: Callable[[Connection], None], *, sampled: bool) -> None:
        self._seen = seen
        self._done = done
        self._sampled = sampled
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._asked_at = 0.0
        self._event_at = 0.0
        self._is_waiting = self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._is_open:
            self._end(failed=True)

    def ask(self, request: bytes) -> None:
        self._is_open = self._is_waiting = True
        self._event_at = 0.0
        self._asked_at = time.perf_counter()
        if self._transport is None:
            self._end(failed=True)
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._seen.first_byte_s.append(time.perf_counter() - self._asked_at)
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        events = data.count(_EVENT)
        if not events:
            return
        self._seen.events += events
        if not self._sampled:
            return
        now = time.monotonic()
        for stamp in _STAMP.findall(data):
            self._seen.delay_s.append(now - int(stamp) / 1e9)
        if self._event_at:
            self._seen.gap_s.append(now - self._event_at)
        self._event_at = now

    def on_message_complete(self) -> None:
        self._end(failed=self._parser.get_status_code() != 200)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _end(self, *, failed: bool) -> None:
        self._is_open = False
        self._seen.calls += 1
        self._seen.failed += failed
        self._done(self)


class _Crowd:
    """Connections to one port, and how many of their calls are open."""

    def __init__(self, port: int, seen: Seen) -> None:
        self.port, self.seen = port, seen
        self.connections: list[Connection] = []
        self.idle: list[Connection] = []
        self.open = 0
        self._quiet: asyncio.Future[None] | None = None

    async def connect(self, count: int, *, sampled: int = 0) -> None:
        loop = asyncio.get_running_loop()
        for number in range(count):
            _, connection = await loop.create_connection(
                lambda n=number: Connection(self.seen, self._ended, sampled=n < sampled),  # type: ignore[misc]
                "127.0.0.1",
                self.port,
            )
            self.connections.append(connection)
        self.idle = list(self.connections)

    def ask(self, request: bytes) -> bool:
        """Ask over an idle connection; False where there is none."""
        if not self.idle:
            return False
        self.open += 1
        self.idle.pop().ask(request)
        return True

    def _ended(self, connection: Connection) -> None:
        self.open -= 1
        self.idle.append(connection)
        self.next_call()
        if self.open == 0 and self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    def next_call(self) -> None:
        """What an answer makes room for."""

    async def quiet(self) -> None:
        if self.open:
            self._quiet = asyncio.get_running_loop().create_future()
            async with asyncio.timeout(LATE_S):
                await self._quiet

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


async def saturated(port: int, request: bytes, *, connections: int, seconds: float) -> Seen:
    """Each connection asks again as soon as it has its answer."""
    crowd = _Crowd(port, Seen())
    await crowd.connect(connections)
    began = time.perf_counter()

    def again() -> None:
        if time.perf_counter() - began < seconds:
            crowd.ask(request)

    crowd.next_call = again  # type: ignore[method-assign]
    while crowd.ask(request):
        pass
    return await _finished(crowd, began)


async def paced(
    port: int, request: bytes, *, rate: float, connections: int, seconds: float
) -> Seen:
    """So many calls a second; those that find no idle connection wait for one."""
    crowd = _Crowd(port, Seen())
    await crowd.connect(connections)
    began = time.perf_counter()
    waiting = 0

    def again() -> None:
        nonlocal waiting
        while waiting and crowd.ask(request):
            waiting -= 1

    crowd.next_call = again  # type: ignore[method-assign]
    for number in range(int(rate * seconds)):
        pause = began + number / rate - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        waiting += 1
        again()
    while waiting:
        await asyncio.sleep(0.01)
    return await _finished(crowd, began)


async def streams(
    port: int, request: bytes, *, count: int, halfway: Callable[[], None], seconds: float
) -> Seen:
    """So many streams at the same time, begun within the first part of a second.

    `halfway` is called while all are open.
    """
    crowd = _Crowd(port, Seen())
    await crowd.connect(count, sampled=SAMPLED)
    began = time.perf_counter()
    asyncio.get_running_loop().call_later(seconds / 2, halfway)
    for number in range(count):
        pause = began + number / count * 0.5 - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        crowd.ask(request)
    return await _finished(crowd, began)


async def _finished(crowd: _Crowd, began: float) -> Seen:
    try:
        await crowd.quiet()
    finally:
        crowd.close()
    crowd.seen.took_s = time.perf_counter() - began
    return crowd.seen
