"""Connection: one HTTP/1.1 connection to a provider, one exchange at a time.

It frames and nothing more: the head of an answer and the bytes of its body come out as they
arrived, one piece per read from the socket. It does not retry, pool, or look into a body.

Rules: bounded buffers both ways; no total timeout, only one between bytes; after a fault, surplus
bytes or a body of unknown end the connection is never used again.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import cast

import httptools

from proxy.exchange import Outcome
from proxy.wire.fields import Fields

HIGH_WATER_BYTES = 128 * 1024  # what waits for a slow agent before reading stops
LOW_WATER_BYTES = 32 * 1024
_WRITE_HIGH_BYTES = 256 * 1024


class UpstreamFault(Exception):
    """The upstream did not answer, or not to the end. The text is for the agent's user."""

    outcome = Outcome.UPSTREAM_RESET
    status = 502


class UpstreamUnreachable(UpstreamFault):
    """No connection, or its certificate was refused. The operator checks url, TLS and egress."""

    outcome = Outcome.UPSTREAM_UNREACHABLE


class UpstreamTimeout(UpstreamFault):
    """Nothing came for idle_timeout_s, or no connection within connect_timeout_s."""

    outcome = Outcome.UPSTREAM_TIMEOUT
    status = 504


class UpstreamReset(UpstreamFault):
    """The connection broke, or what came is not HTTP."""


class Framing(Enum):
    """How the end of a body is told (RFC 9112 §6)."""

    NONE = "none"  # HEAD, 1xx, 204, 304
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer as it crossed the wire."""

    status: int
    reason: bytes
    fields: Fields
    framing: Framing

    @property
    def is_interim(self) -> bool:
        return self.status < 200 and self.status != 101


@dataclass(frozen=True, slots=True)
class Limits:
    idle_timeout_s: float
    head_bytes_max: int
    field_bytes_max: int
    fields_max: int


class Connection(asyncio.Protocol):
    """`begin`, `write`…, `sent`, then `head` until it is final, then `read` until b""."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._tunnel: asyncio.Protocol | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._is_writing_paused = False
        self._is_reading_paused = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._active_at = 0.0
        self.idle_since = 0.0
        self._reset(is_head_only=False)

    def _reset(self, *, is_head_only: bool) -> None:
        self._is_head_only = is_head_only
        self._heads: deque[Head] = deque()
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._read: list[bytes] = []
        self._fault: UpstreamFault | None = None
        self._has_surplus = False
        self._keeps_alive = False
        self._request_is_sent = False
        self._head_bytes = 0
        self._final: Head | None = None
        self.is_complete = False
        self.has_answered = False  # at least one byte
        self._begin_head()

    def _begin_head(self) -> None:
        self._reason = b""
        self._fields: list[tuple[bytes, bytes, bytes]] = []

    # --- the exchange, as the relay sees it

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def transport(self) -> asyncio.Transport | None:
        """The socket's transport while it is open."""
        return self._transport

    @property
    def has_unread(self) -> bool:
        """Whether the socket holds something unread: on an idle connection, its end."""
        if self._transport is None:
            return True
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    @property
    def is_reusable(self) -> bool:
        """Whether the exchange ended so that another may follow on this connection."""
        return (
            self.is_complete
            and self._request_is_sent
            and self._keeps_alive
            and not self._has_surplus
            and self._fault is None
            and self._tunnel is None
            and self.is_open
        )

    def begin(self, *, is_head_only: bool) -> None:
        """Start an exchange; `is_head_only`: its answer has no body (HEAD)."""
        self._reset(is_head_only=is_head_only)
        self._parser = httptools.HttpResponseParser(self)
        # What every client accepts; control bytes in fields stay refused.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._active_at = self._loop.time()
        self._watch(self._limits.idle_timeout_s)

    def finish(self) -> bool:
        """End the exchange; True if the connection may be used again, else it is closed."""
        is_reusable = self.is_reusable
        self._parser = None
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if self._tunnel is not None:
            self.close()  # what the tunnel wrote may still be on its way
        elif not is_reusable:
            self.abort()
        return is_reusable

    def write(self, data: bytes) -> None:
        """Send; bytes written after a fault are dropped, since reading tells the fault."""
        self._active_at = self._loop.time()
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the upstream takes more, or is gone."""
        if self._is_writing_paused and self._transport is not None:
            self._drain_waiter = self._loop.create_future()
            await self._drain_waiter

    def sent(self) -> None:
        """The request has been written to its end."""
        self._request_is_sent = True

    async def head(self) -> Head:
        """The next head of the answer, interim ones included. Raises UpstreamFault."""
        while not self._heads:
            if self._fault is not None:
                raise self._fault
            await self._wait()
        return self._heads.popleft()

    async def read(self) -> bytes:
        """The next piece of the body, b"" at its end. Raises UpstreamFault."""
        while not self._pieces:
            if self.is_complete:
                return b""
            if self._fault is not None:
                raise self._fault
            await self._wait()
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if self._is_reading_paused and self._size <= LOW_WATER_BYTES:
            self.resume_reading()
        return piece

    @property
    def has_piece(self) -> bool:
        """Whether `read` would return at once with a piece."""
        return bool(self._pieces)

    @property
    def is_drained(self) -> bool:
        """Whether the body has been read to its end."""
        return self.is_complete and not self._pieces

    def become_tunnel(self, receiver: asyncio.Protocol) -> None:
        """After a 101: hand every further byte, and the end, to `receiver`."""
        self._tunnel = receiver
        if self._watchdog is not None:
            self._watchdog.cancel()
        self.resume_reading()
        while self._pieces:
            receiver.data_received(self._pieces.popleft())
        if not self.is_open:
            receiver.connection_lost(self._fault)

    def pause_reading(self) -> None:
        if not self._is_reading_paused and self.is_open:
            self._is_reading_paused = True
            cast(asyncio.Transport, self._transport).pause_reading()

    def resume_reading(self) -> None:
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._active_at = self._loop.time()
            if self.is_open:
                cast(asyncio.Transport, self._transport).resume_reading()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.data_received(data)
            return
        if self._parser is None:  # between two exchanges nothing may come
            self.abort()
            return
        self.has_answered = True
        self._active_at = self._loop.time()
        self._feed(data)
        if self._final is None:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes_max:
                self._fail(UpstreamReset("the upstream's answer has too large a head"))
        self._wake()

    def _feed(self, data: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._keep([data[upgrade.args[0] :]])
        except httptools.HttpParserError:
            if self.is_complete:
                self._has_surplus = True
            else:
                self._fail(UpstreamReset("the upstream's answer is not valid HTTP/1.1"))
        if self._read:
            self._keep(self._read)
            self._read = []

    def _keep(self, pieces: list[bytes]) -> None:
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if not piece:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > HIGH_WATER_BYTES:
            self.pause_reading()

    def eof_received(self) -> bool | None:
        return self._tunnel.eof_received() if self._tunnel is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)
        if self._tunnel is not None:
            self._tunnel.connection_lost(exc)
            return
        is_whole = self._final is not None and self._final.framing is Framing.CLOSE and exc is None
        if is_whole:
            self.is_complete = True
        elif not self.is_complete and self._fault is None:
            when = "in the middle of its answer" if self._final else "before its answer"
            self._fault = UpstreamReset(f"the upstream closed the connection {when}")
        self._wake()

    def pause_writing(self) -> None:
        self._is_writing_paused = True
        if self._tunnel is not None:
            self._tunnel.pause_writing()

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._active_at = self._loop.time()
        if self._tunnel is not None:
            self._tunnel.resume_writing()
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)

    # --- the parser's side

    def on_message_begin(self) -> None:
        if self.is_complete:
            self._has_surplus = True

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._final is not None:  # a trailer
            return
        limits = self._limits
        if (
            len(name) + len(value) > limits.field_bytes_max
            or len(self._fields) >= limits.fields_max
        ):
            raise ValueError("head too large")
        self._fields.append((name.lower(), name, value))

    def on_headers_complete(self) -> None:
        if self._final is not None:
            self._has_surplus = True
            return
        assert self._parser is not None
        status = self._parser.get_status_code()
        fields = tuple(self._fields)
        head = Head(status, self._reason, fields, self._framing(status, fields))
        self._begin_head()
        self._heads.append(head)
        if head.is_interim:
            return
        self._final = head
        self._keeps_alive = self._parser.should_keep_alive()
        if head.framing is Framing.NONE:
            self.is_complete = True

    def _framing(self, status: int, fields: Fields) -> Framing:
        codings = [value.lower() for name, _, value in fields if name == b"transfer-encoding"]
        if codings and codings != [b"chunked"]:
            raise ValueError("transfer coding other than chunked")
        if self._is_head_only or status < 200 or status in (204, 304):
            return Framing.NONE
        if codings:
            return Framing.CHUNKED
        has_length = any(name == b"content-length" for name, _, _ in fields)
        return Framing.LENGTH if has_length else Framing.CLOSE

    def on_body(self, data: bytes) -> None:
        if self.is_complete:
            self._has_surplus = True
        else:
            self._read.append(data)

    def on_message_complete(self) -> None:
        if self._final is not None:
            self.is_complete = True

    # --- waiting

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, fault: UpstreamFault) -> None:
        if self._fault is None:
            self._fault = fault
        self.abort()
        self._wake()

    def _watch(self, delay_s: float) -> None:
        self._watchdog = self._loop.call_later(delay_s, self._check_idle)

    def _check_idle(self) -> None:
        """Fail if the upstream owes us something and nothing moved for the idle timeout."""
        limit = self._limits.idle_timeout_s
        quiet_s = self._loop.time() - self._active_at
        is_owing = self._waiter is not None and (self._request_is_sent or self._is_writing_paused)
        if not is_owing:
            self._watch(limit)
        elif quiet_s < limit:
            self._watch(limit - quiet_s)
        else:
            self._fail(UpstreamTimeout(f"the upstream was silent for {limit:g} s"))
