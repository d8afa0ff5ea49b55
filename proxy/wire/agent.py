"""Agent: one connection from an agent, as aiohttp serves it, with what aiohttp lacks.

A deadline for each request's head (slow or silent connections), a bound on the whole head, no echo
and no log of what was received, and raw writing: the relay writes answers to the transport itself,
and hands aiohttp a `Relayed` so that it writes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from proxy.wire.refusals import Refusal

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER for no time: closing sends RST

_log = logging.getLogger("proxy.wire")


class Relayed(web.StreamResponse):
    """Tells aiohttp that the answer has been written; it has nothing left to do."""

    def __init__(self, *, keeps_alive: bool) -> None:
        # Not the base's: it makes headers and names a status, which nobody reads.
        self._keep_alive = keeps_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing: the head was written."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: the body was written."""


class AgentConnection(RequestHandler):
    """An agent's connection. `server` counts it and bounds their number."""

    __slots__ = (
        "_deadline",
        "_head_bytes",
        "_requests_seen",
        "_server",
        "ends_by_close",
        "tunnel",
    )

    def __init__(self, server: AgentServer, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._requests_seen = 0
        self.tunnel: asyncio.Protocol | None = None
        self.ends_by_close = False  # while an answer's end is the connection's: a cut must be RST

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._server.is_full:
            full = Refusal(503, "too many connections (gateway.max_connections); try again later")
            self._force_close = True
            cast(asyncio.Transport, transport).write(refusal_bytes(full))
            cast(asyncio.Transport, transport).close()
            return
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_deadline()
        if self.tunnel is not None:
            self.tunnel.connection_lost(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.data_received(data)
            return
        super().data_received(data)
        if self._request_count != self._requests_seen:
            self._requests_seen = self._request_count
            self._forget_deadline()
            self._break_unfinished_body()
        elif self.is_idle:
            self._head_bytes += len(data)
            if self._head_bytes > self._server.head_bytes_max:
                self.refuse(Refusal(431, "the head of the request is too large"))
            elif self._deadline is None:
                self._expect_head()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio lets it keep open
        if self.tunnel is not None:
            return self.tunnel.eof_received()
        return None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.tunnel is not None:
            self.tunnel.pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.tunnel is not None:
            self.tunnel.resume_writing()

    # For the relay.

    def send(self, data: bytes) -> None:
        """Write to the agent. Raises ConnectionResetError where it is gone."""
        if self.transport is None:
            raise ConnectionResetError("the agent is gone")
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the agent takes more. Raises ConnectionError where it is gone."""
        await self._drain_helper()

    def abort(self) -> None:
        """Cut the connection, so that the agent sees a broken answer and no clean end."""
        if self.transport is None:
            return
        if self.ends_by_close:
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def become_tunnel(self, tunnel: asyncio.Protocol) -> None:
        """After a 101: hand every further byte, and those that wait, to `tunnel`."""
        self.tunnel = tunnel
        if self._message_tail:
            waiting, self._message_tail = self._message_tail, b""
            tunnel.data_received(waiting)
        if self._buffer_paused:
            self._resume_reading_for_buffer()

    def refuse(self, refusal: Refusal) -> None:
        """Answer without a request, and close."""
        if self.transport is not None:
            self.transport.write(refusal_bytes(refusal))
        self.force_close()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered or waits for it."""
        return self._waiter is not None and not self._waiter.done()

    # What aiohttp would do with an error: log and echo the request's bytes.

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500:
            _log.error("a request failed inside the gateway: %s", type(exc).__name__)
        text = (
            "the request is not valid HTTP/1.1, or its head is larger than "
            "gateway.max_header_bytes or max_headers allow"
            if status < 500
            else "an error inside the gateway; its log names it"
        )
        self.send(refusal_bytes(Refusal(status, text)))
        return Relayed(keeps_alive=False)

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        fault = kwargs.get("exc_info")
        _log.error("a connection failed inside the gateway: %s", type(fault).__name__)

    def _break_unfinished_body(self) -> None:
        """Tell the relay of a malformed body, which aiohttp's C parser only queues as an error.

        A further message before the body's end can be nothing else.
        """
        request = self._current_request
        if request is not None and not request.content.is_eof():
            request.content.set_exception(web.RequestPayloadError("malformed"))

    # The deadline of a head.

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._deadline = self._loop.call_later(self._server.header_timeout_s, self._too_slow)

    def _forget_deadline(self) -> None:
        self._head_bytes = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        self.refuse(Refusal(408, "the head of the request did not arrive in time"))


class AgentServer(web.Server):
    """aiohttp's server, making `AgentConnection`s."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Any],
        *,
        header_timeout_s: float,
        head_bytes_max: int,
        connections_max: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self.header_timeout_s = header_timeout_s
        self.head_bytes_max = head_bytes_max
        self._connections_max = connections_max
        self._connection_options = kwargs

    @property
    def is_full(self) -> bool:
        return len(self._connections) >= self._connections_max

    def __call__(self) -> AgentConnection:
        return AgentConnection(self, loop=self._loop, **self._connection_options)


def refusal_bytes(refusal: Refusal, *extra: bytes) -> bytes:
    """A whole answer that closes the connection."""
    body = refusal.body
    head = b"".join(
        (
            refusal.status_line,
            b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body),
            *extra,
            b"Connection: close\r\n\r\n",
        )
    )
    return head + body
