"""Observe: what one case makes the provider see and the agent get.

The provider here is strict: h11 reads what reaches it, so a front that forwards something ambiguous
is found out. The agent sends the case's bytes and, behind them, one last request; how that request
is taken tells how the front framed the case.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11

from tests.http.cases import OK, Case, get

LAST_TARGET = b"/fake/last"
LAST = get(LAST_TARGET, b"Connection: close")
PROBE_TARGET = b"/fake/probe"
PROBE = get(PROBE_TARGET, b"Connection: close")
CLOSED_WITHIN_S = 5.0  # else a connection is said to stay open; fronts wait for a second
_PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast"
_HEAD_BYTES_MAX = 2**20

Fields = list[tuple[bytes, bytes]]


@dataclass
class Seen:
    """One request as the provider read it; `fault` where h11 could not."""

    method: bytes = b""
    target: bytes = b""
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    is_whole: bool = False
    fault: str = ""


@dataclass
class Got:
    """One answer as the agent read it."""

    status_line: bytes
    fields: Fields
    body: bytes = b""
    is_whole: bool = False

    @property
    def status(self) -> int:
        parts = self.status_line.split(b" ")
        return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0


@dataclass
class Observation:
    """One case through one front."""

    seen: list[Seen]
    got: list[Got]
    raw: bytes  # all that the agent received
    is_closed: bool  # the front closed the connection by itself

    @property
    def has_last(self) -> bool:
        """Whether the last request was answered as one of its own."""
        return any(seen.target == LAST_TARGET for seen in self.seen)


class Provider:
    """A strict backend that answers every case with the bytes it wants."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.case: Case | None = None
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Provider]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest: bytes | None = b""
        try:
            while rest is not None:
                rest = await self._exchange(reader, writer, rest)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rest: bytes
    ) -> bytes | None:
        """Read one request and answer it; what came behind it, or None where that was the last."""
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES_MAX)
        if rest:
            http.receive_data(rest)
        seen = Seen()
        try:
            if not await self._read(http, reader, seen):
                return None
        except h11.RemoteProtocolError as error:
            seen.fault = str(error)
            if not seen.method:
                self.seen.append(seen)
            writer.write(b"HTTP/1.1 %d Refused\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                         % error.error_status_hint)  # fmt: skip
            return None
        case = self.case
        if seen.target in (LAST_TARGET, PROBE_TARGET) or case is None:
            writer.write(_PLAIN)
        else:
            is_bodiless = seen.method == b"HEAD" and case.answer is OK
            writer.write(OK.partition(b"{")[0] if is_bodiless else case.answer)
            if case.closes:
                return None
        is_last = http.their_state not in (h11.DONE, h11.MIGHT_SWITCH_PROTOCOL)
        return None if is_last else http.trailing_data[0]

    async def _read(self, http: h11.Connection, reader: asyncio.StreamReader, seen: Seen) -> bool:
        while True:
            event = http.next_event()
            match event:
                case h11.NEED_DATA:
                    http.receive_data(await reader.read(65536))
                case h11.Request():
                    seen.method, seen.target = event.method, event.target
                    seen.fields = list(event.headers.raw_items())
                    self.seen.append(seen)
                case h11.Data():
                    seen.body += bytes(event.data)
                case h11.EndOfMessage():
                    seen.trailers = list(event.headers.raw_items())
                    seen.is_whole = True
                    return True
                case _:
                    return False


class _Agent(asyncio.Protocol):
    """Sends what it is given and keeps all that comes."""

    def __init__(self) -> None:
        self.raw = b""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.raw += data

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


Address = int | str
"""Where a front listens: a port on loopback, or the path of a socket."""


async def exchange(address: Address, raw: bytes) -> tuple[bytes, bool]:
    """What comes back for these bytes until the connection ends, and whether it did."""
    loop = asyncio.get_running_loop()
    if isinstance(address, int):
        transport, agent = await loop.create_connection(_Agent, "127.0.0.1", address)
    else:
        transport, agent = await loop.create_unix_connection(_Agent, address)
    transport.write(raw)
    done, _ = await asyncio.wait({agent.ended}, timeout=CLOSED_WITHIN_S)
    transport.abort()
    await agent.ended
    return agent.raw, bool(done)


async def observe(case: Case, address: Address, provider: Provider) -> Observation:
    """Run a case through this front. A probe behind it shows that the front lives."""
    provider.seen, provider.case = [], case
    raw, is_closed = await exchange(address, case.request + (b"" if case.is_last else LAST))
    answer, _ = await exchange(address, PROBE)
    assert answer.endswith(b"last"), f"nothing answers after {case.group}: {case.name}: {answer!r}"
    seen = [request for request in provider.seen if request.target != PROBE_TARGET]
    return Observation(seen, answers(raw, [request.method for request in seen]), raw, is_closed)


def answers(raw: bytes, methods: list[bytes]) -> list[Got]:
    """The answers in these bytes, for requests with these methods. Strict, but for their end."""
    found: list[Got] = []
    methods = list(methods)
    while raw:
        head, end, raw = raw.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        pairs = (line.partition(b":") for line in lines)
        got = Got(first, [(name, value.strip(b" \t")) for name, _, value in pairs])
        found.append(got)
        if not end:
            break
        if 100 <= got.status < 200:
            got.is_whole = True
            continue
        method = methods.pop(0) if methods else b""
        raw = _take_body(got, raw, method)
    return found


def _take_body(got: Got, raw: bytes, method: bytes) -> bytes:
    values = {name.lower(): value for name, value in got.fields}
    if method == b"HEAD" or got.status in (204, 304):
        got.is_whole = True
        return raw
    if values.get(b"transfer-encoding", b"").lower() == b"chunked":
        return _take_chunks(got, raw)
    length = values.get(b"content-length")
    if length is not None and length.isdigit():
        got.body, got.is_whole = raw[: int(length)], len(raw) >= int(length)
        return raw[int(length) :]
    got.body, got.is_whole = raw, True
    return b""


def _take_chunks(got: Got, raw: bytes) -> bytes:
    while True:
        line, end, raw = raw.partition(b"\r\n")
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            return b""
        if not end or (len(raw) < size + 2 and size):
            got.body += raw[:size]
            return b""
        if size == 0:
            while True:
                line, end, raw = raw.partition(b"\r\n")
                if not line:
                    got.is_whole = bool(end)
                    return raw
        got.body += raw[:size]
        raw = raw[size + 2 :]
