"""Fakes for the program's own interfaces, and both ends of a raw HTTP connection.

`MemorySink` stands in for the spool. `Upstream` is a provider whose script decides every byte it
sends and when; `connect` gives an agent that does the same. Nothing here is lenient: a body that is
cut short raises, and a script's own failure fails the test.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from uuid import UUID

from proxy.exchange import AnswerHead, End, Exchange, Piece, Start

PATIENCE_S = 10.0


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something holds that no event tells of."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0)


class MemorySink:
    """Keeps exchanges in memory; can be full, refuse, or break its promise and raise."""

    def __init__(self) -> None:
        self.exchanges: dict[UUID, Exchange] = {}
        self.is_full = False
        self.accepts = True
        self.waits_for_disk = False
        self.disk = asyncio.Event()
        self.raises_in = ""
        self.order: list[str] = []
        self._changed = asyncio.Event()

    async def synced(self) -> None:
        await self.disk.wait()

    def start(self, start: Start) -> bool:
        return self._keep("start", start.id, Exchange(start))

    def begin(self, id: UUID, start: bytes, at_us: int, body: bytes) -> int | None:
        if not self.start(Start.from_bytes(start)):
            return None
        return len(body) if body and self.request(id, at_us, body) else 0

    def request(self, id: UUID, at_us: int, data: bytes) -> bool:
        return self._keep("request", id, self._change(id, request=self[id].request + data))

    def head(self, id: UUID, head: AnswerHead) -> bool:
        return self._keep("head", id, self._change(id, head=head))

    def response(self, id: UUID, at_us: int, data: bytes) -> bool:
        pieces = (*self[id].response, Piece(at_us, data))
        return self._keep("response", id, self._change(id, response=pieces))

    def end(self, id: UUID, end: End) -> bool:
        assert self[id].end is None, "an exchange ends once"
        return self._keep("end", id, self._change(id, end=end))

    def finish(self, id: UUID, head: AnswerHead | None, at_us: int, data: bytes, end: End) -> None:
        if head is not None:
            self.head(id, head)
        if data and not self.response(id, at_us, data):
            end = replace(end, response_kept=end.response_kept - len(data))
        self.end(id, end)

    def __getitem__(self, id: UUID) -> Exchange:
        return self.exchanges[id]

    @property
    def only(self) -> Exchange:
        (exchange,) = self.exchanges.values()
        return exchange

    @property
    def ended(self) -> list[Exchange]:
        return [exchange for exchange in self.exchanges.values() if exchange.end is not None]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that a change of this sink makes true."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_ended(self, count: int = 1) -> None:
        await self.until(lambda: len(self.ended) >= count)

    def _change(self, id: UUID, **parts: object) -> Exchange:
        old = self[id]
        known = {name: getattr(old, name) for name in ("request", "head", "response", "end")}
        return Exchange(old.start, **known | parts)

    def _keep(self, what: str, id: UUID, exchange: Exchange) -> bool:
        if self.raises_in == what:
            raise RuntimeError("a sink that breaks its promise")
        if not self.accepts:
            return False
        self.order.append(what)
        self.exchanges[id] = exchange
        self._changed.set()
        return True


@dataclass
class Message:
    """A request or an answer as it crossed the wire."""

    first_line: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    def all(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.fields if known.lower() == name.lower()]

    def get(self, name: bytes) -> bytes | None:
        return next(iter(self.all(name)), None)

    @property
    def status(self) -> int:
        return int(self.first_line.split(b" ")[1])


class Peer:
    """One end of a raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Each piece in a write of its own."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def send_bytewise(self, data: bytes) -> None:
        for at in range(len(data)):
            self.writer.write(data[at : at + 1])
            await asyncio.sleep(0)

    async def head(self, patience_s: float | None = PATIENCE_S) -> Message:
        async with asyncio.timeout(patience_s):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].split(b"\r\n")
        fields = [(name, value[1:]) for name, _, value in (line.partition(b":") for line in lines)]
        return Message(first, fields)

    async def message(
        self, *, has_no_body: bool = False, patience_s: float | None = PATIENCE_S
    ) -> Message:
        """A whole message that begins within `patience_s`.

        Raises asyncio.IncompleteReadError or ConnectionError if it is cut.
        """
        message = await self.head(patience_s)
        async with asyncio.timeout(PATIENCE_S):
            if has_no_body or message.first_line.startswith((b"HTTP/1.1 204", b"HTTP/1.1 304")):
                return message
            if message.get(b"transfer-encoding"):
                message.chunks = await self._chunks()
                message.body = b"".join(message.chunks)
            elif (length := message.get(b"content-length")) is not None:
                message.body = await self.reader.readexactly(int(length))
            elif message.first_line.startswith(b"HTTP/"):
                message.body = await self.reader.read()
        return message

    async def chunk(self) -> bytes:
        """One chunk of a chunked body; b"" is its end."""
        async with asyncio.timeout(PATIENCE_S):
            size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
            data = await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def _chunks(self) -> list[bytes]:
        chunks = []
        while data := await self.chunk():
            chunks.append(data)
        return chunks

    async def rest(self) -> bytes:
        """Everything until the end of the file."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()

    async def until_gone(self) -> None:
        """Wait until the other end has closed or reset."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Close with RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class Upstream:
    """A provider on a loopback port; `script` runs once per connection."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.port = 0

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    async def until_left(self) -> None:
        """Wait until each connection that was made has been served to its end."""
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._run(Peer(reader, writer)))
        self._tasks.add(task)

    async def _run(self, peer: Peer) -> None:
        try:
            await self._script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the gateway closed; what that means is the test's to say
        except Exception as failure:
            self._failure = failure
        finally:
            peer.writer.transport.abort() if peer.writer.is_closing() else peer.close()


def answering(*answers: bytes) -> Script:
    """A script that reads whole requests and sends these answers in turn, the last one for ever."""
    left = list(answers)

    async def script(peer: Peer) -> None:
        while True:
            await peer.message(patience_s=None)  # a connection may be idle for as long as it likes
            await peer.send(left.pop(0) if len(left) > 1 else left[0])

    return script


def whole(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with Content-Length."""
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join((b"HTTP/1.1 " + status, *lines, length, b"", body))


def chunked(pieces: Sequence[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def post(
    path: bytes, body: bytes = b"{}", *lines: bytes, version: bytes = b"1.1", host: bytes = b"x"
) -> bytes:
    """A request with Content-Length."""
    head = (b"POST %b HTTP/%b" % (path, version), b"Host: " + host, *lines)
    return b"\r\n".join((*head, b"Content-Length: %d" % len(body), b"", body))


@asynccontextmanager
async def connect(address: object) -> AsyncIterator[Peer]:
    """An agent's connection to (host, port, …)."""
    assert isinstance(address, tuple)
    reader, writer = await asyncio.open_connection(address[0], address[1], limit=2**20)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()
