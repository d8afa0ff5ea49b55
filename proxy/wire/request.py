"""Request: reads the requests of an agent from the bytes of its connection. No I/O.

It frames (RFC 9112 §6) and refuses what could be framed in two ways: the parser takes no bare line
feed, no folded line, no control byte, no length that is doubted. What it does not look at is looked
at here: the size of a head, a field that may stand once and stands twice, a request without a host.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import httptools

from proxy.wire.answer import HeadLimits
from proxy.wire.faults import BodyFault
from proxy.wire.fields import Fields, first
from proxy.wire.refusals import Refusal

INVALID = Refusal(
    400,
    "the request is not valid HTTP/1.1, or its head is larger than gateway.max_header_bytes or "
    "max_headers allow",
)
TOO_LARGE = Refusal(
    431, "the head of the request is too large; gateway.max_header_bytes says how large"
)
_FRAMING = (b"content-length", b"transfer-encoding")
_BROKEN = (400, "the body of the request is broken")
# Twice in a head, RFC 9110 §5.3 does not say which of them counts.
_SINGLETONS = frozenset(
    (
        *(b"content-length", b"content-location", b"content-range", b"content-type", b"etag"),
        *(b"host", b"max-forwards", b"server", b"transfer-encoding", b"user-agent"),
    )
)


class Body:
    """The body of one request, as it arrives. One task reads it."""

    __slots__ = ("_is_broken", "_pieces", "_taken", "_waiter", "is_whole", "size")

    def __init__(self, taken: Callable[[], None]) -> None:
        """`taken` is called when something was read."""
        self._taken = taken
        self._pieces: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._is_broken = False
        self.size = 0  # bytes that wait to be read
        self.is_whole = False  # its end has come

    @property
    def is_over(self) -> bool:
        """Whether nothing more of it will come."""
        return self.is_whole or self._is_broken

    def read_nowait(self) -> bytes:
        """All that waits."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.size = 0
        self._taken()
        return data

    async def read(self) -> bytes:
        """What waits, once there is something; b"" at the end. Raises BodyFault."""
        while not self._pieces and not self.is_whole:
            if self._is_broken:
                raise BodyFault(*_BROKEN)
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.read_nowait()

    def feed(self, data: bytes) -> None:
        self._pieces.append(data)
        self.size += len(data)
        self._wake()

    def feed_end(self) -> None:
        self.is_whole = True
        self._wake()

    def feed_break(self) -> None:
        """Its end will not come."""
        self._is_broken = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None


class Request:
    """One request. `keeps_alive`: its connection may go on, as far as the agent is concerned."""

    __slots__ = ("body", "fields", "is_switching", "keeps_alive", "method", "target", "version")

    def __init__(
        self,
        method: str,
        target: bytes,
        version: str,
        fields: Fields,
        body: Body,
        *,
        keeps_alive: bool,
        is_switching: bool,
    ) -> None:
        """`is_switching`: it asks for another protocol."""
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields
        self.body = body
        self.keeps_alive = keeps_alive
        self.is_switching = is_switching


class RequestReader:
    """Feed it what arrives; look at `requests` and `fault` after each feed."""

    def __init__(self, limits: HeadLimits, taken: Callable[[], None]) -> None:
        """`taken` is called when something of a body was read."""
        self._limits = limits
        self._taken = taken
        self._parser = httptools.HttpRequestParser(self)
        self.requests: deque[Request] = deque()  # whose heads are read; their bodies may follow
        self.unfinished: Request | None = None  # the newest of them, until its body is whole
        self.fault: Refusal | None = None  # what the agent is to be told behind `requests`
        self.behind_switch: bytearray | None = None  # what came behind a request for a switch
        self._is_over = False  # nothing more is read
        self._is_last = False  # the newest request ends its connection
        self._is_body_only = False
        self.is_in_head = False  # a head has begun and is not whole
        self._is_all_framing = False  # no body was in the last piece, and no end of a head
        self._framing_bytes = 0  # since a head began, or since the last byte of a body
        self._target = b""
        self._fields: list[tuple[bytes, bytes, bytes]] = []
        self._seen: set[bytes] = set()

    @property
    def waiting_bytes(self) -> int:
        """What was read and nobody has taken yet: of bodies, or behind a switch."""
        behind, newest, queue = self.behind_switch, self.unfinished, self.requests
        size = 0 if behind is None else len(behind)
        if newest is not None and not (queue and queue[-1] is newest):
            size += newest.body.size
        for request in queue:
            size += request.body.size
        return size

    def feed(self, data: bytes) -> None:
        if self.behind_switch is not None:
            self.behind_switch += data
            return
        if self._is_over:
            return
        self._is_all_framing = True
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._break()
        if self._is_all_framing and (self.is_in_head or self.unfinished is not None):
            self._framing_bytes += len(data)
            if self._framing_bytes > self._limits.head_bytes_max:
                self._break(TOO_LARGE)

    def go_on(self) -> None:
        """There was no switch: what came behind the request for it are requests."""
        data, self.behind_switch = self.behind_switch, None
        if data is not None:
            self._parser = httptools.HttpRequestParser(self)
            self.feed(bytes(data))

    def feed_break(self) -> None:
        """No more bytes will come."""
        self._is_over = True
        if self.unfinished is not None:
            self.unfinished.body.feed_break()

    def drop(self) -> None:
        """Read nothing more, and forget all that waits."""
        self.feed_break()
        self.requests.clear()
        self.unfinished = self.behind_switch = None

    def release(self) -> None:
        """Drop all, and break the reference cycles: with the parser, and `taken`'s."""
        self.drop()
        del self._parser, self._taken

    def _break(self, fault: Refusal = INVALID) -> None:
        """What came is no HTTP. Behind a request that ends its connection it is not looked at."""
        self.feed_break()
        if self.unfinished is None:
            if not self._is_last:
                self.fault = fault
        elif self.requests and self.requests[-1] is self.unfinished:
            del self.requests[-1]  # nobody has begun it, so nothing of it need go on
            self.fault = fault

    def _parse(self, data: bytes | memoryview) -> None:
        """Raises HttpParserError."""
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as switch:
                data = memoryview(data)[switch.args[0] :]
            # It stopped behind the head of a request for a switch, as if that had no body.
            request = self.unfinished
            if request is None:
                self.behind_switch = bytearray(data)
                return
            self._parse_framing(request.fields)

    def _parse_framing(self, fields: Fields) -> None:
        """From here on a body is read, by a parser that was told of nothing but its framing."""
        self._parser = httptools.HttpRequestParser(self)
        self._is_body_only = True
        framing = [b"%b: %b\r\n" % field[1:] for field in fields if field[0] in _FRAMING]
        self._parser.feed_data(b"".join((b"POST / HTTP/1.1\r\n", *framing, b"\r\n")))

    # The parser's callbacks. An exception in one becomes an HttpParserError in `feed`.

    def on_message_begin(self) -> None:
        self.is_in_head = not self._is_body_only
        self._framing_bytes = 0
        self._target = b""
        self._fields = []

    def on_url(self, piece: bytes) -> None:
        self._target += piece
        if len(self._target) > self._limits.field_bytes_max:
            raise ValueError("target too large")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_in_head:  # a trailer, or known already
            return
        limits, lower = self._limits, name.lower()
        if (
            len(name) + len(value) > limits.field_bytes_max
            or len(self._fields) >= limits.fields_max
        ):
            raise ValueError("head too large")
        if lower in _SINGLETONS:
            if lower in self._seen:
                raise ValueError("a field stands twice")
            self._seen.add(lower)
        # The parser takes white space off in front of a value, but not behind it.
        self._fields.append((lower, name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self._is_all_framing = False
        if self._is_body_only:
            return
        parser, version = self._parser, self._parser.get_http_version()
        if version == "1.1" and b"host" not in self._seen:
            raise ValueError("no host")
        self._seen.clear()
        self.is_in_head = False
        fields = tuple(self._fields)
        self._is_last = not parser.should_keep_alive()
        request = self.unfinished = Request(
            parser.get_method().decode(),
            self._target,
            version,
            fields,
            Body(self._taken),
            keeps_alive=not self._is_last,
            is_switching=parser.should_upgrade(),
        )
        self.requests.append(request)

    def on_body(self, data: bytes) -> None:
        self._is_all_framing = False
        self._framing_bytes = 0
        if self.unfinished is not None:
            self.unfinished.body.feed(data)

    def on_message_complete(self) -> None:
        request = self.unfinished
        if request is None:
            return
        if request.is_switching and not self._is_body_only and _has_body(request.fields):
            return  # it comes behind what the parser takes for the end
        self._is_body_only = False
        self.unfinished = None
        request.body.feed_end()


def _has_body(fields: Fields) -> bool:
    if first(fields, b"transfer-encoding") is not None:
        return True
    return (first(fields, b"content-length") or b"0").strip(b"0") != b""
