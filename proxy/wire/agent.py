"""Agent: one connection from an agent, and the server that makes them.

The connection moves bytes, waits and ends; `RequestReader` knows what they mean, and the relay
writes the answers itself. Its rules:

- One call at a time: what is pipelined waits, and while much does nothing more is read.
- A head has a deadline and a bound, an idle connection too, and the last bytes of an answer that
  its agent does not take. Bodies wait in a bounded buffer.
- A call whose agent is gone is cancelled at once, or soon while what the agent sends has to wait.
- A last answer is followed by the end of what is sent, and by a while in which whatever comes is
  read and dropped until the agent ends too: closing on it would reset the answer away.
- Nothing of what was received is logged or sent back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import cast

from proxy.wire.answer import HeadLimits
from proxy.wire.refusals import Refusal
from proxy.wire.request import Request, RequestReader
from proxy.wire.unread import Unread

HIGH_WATER_BYTES = 128 * 1024  # what waits for a slow upstream before reading stops
PIPELINED_MAX = 4  # requests that wait before reading stops, with which an agent's leaving shows
KEEPALIVE_S = 75.0
# How long is read what an agent sends behind its last answer: the rest of its request, or more
# than that, which comes at once if at all.
LINGER_REST_S, LINGER_S = 10.0, 2.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER for no time: closing sends RST
_FULL = Refusal(503, "too many connections (gateway.max_connections); try again later")
_LATE = Refusal(408, "the head of the request did not arrive in time")
_FAILED = Refusal(500, "an error inside the gateway; its log names it")

_log = logging.getLogger("proxy.wire")


class AgentConnection(asyncio.Protocol):
    """An agent's connection. `server` counts it and bounds their number."""

    def __init__(self, server: AgentServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader(server.limits, self._balance)
        self._task: asyncio.Task[None] | None = None  # of the call that is open
        self._drain_waiter: asyncio.Future[None] | None = None
        self._is_reading_paused = False
        self._is_over = False  # no further call is begun
        self._linger_s = 0.0  # unless 0, all is answered, and for so long what comes is dropped
        self._due_at: float | None = None  # when the connection ends if nothing comes,
        self._awaits_head = False  # and whether the agent is told why
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.transport: asyncio.Transport | None = None
        self.tunnel: asyncio.Protocol | None = None
        self.writing_paused = False
        self.ends_by_close = False  # while an answer's end is the connection's: a cut must be RST

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._server.is_closed:
            self._is_over = True
            self.transport.abort()
            return
        if self._server.is_full:
            self._is_over = True
            self.transport.write(refusal_bytes(_FULL))
            self.transport.close()
            return
        self._server.connections.add(self)
        raw = self.transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._end_after(self._server.header_timeout_s, awaits_head=True)

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.data_received(data)
            return
        if self._linger_s:
            return
        reader = self._reader
        reader.feed(data)
        if self._task is None and not self._is_over:
            if reader.requests:
                self._due_at = None
                self._task = self._loop.create_task(self._serve(reader.requests.popleft()))
            elif reader.fault is not None:
                self.refuse(reader.fault)
            elif not self._awaits_head:
                self._end_after(self._server.header_timeout_s, awaits_head=True)
        self._balance()

    def eof_received(self) -> bool | None:
        return self.tunnel.eof_received() if self.tunnel is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_reading_paused and self.transport is not None:
            self._server.unread.discard(self.transport)
        self.transport = None
        self._is_over = True
        self._server.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self.tunnel is not None:
            self.tunnel.connection_lost(exc)
        self._reader.release()
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_exception(ConnectionResetError("the agent is gone"))
        if self._task is not None:
            self._task.cancel()
        self._drain_waiter = self._task = None  # whose faults would hold this connection

    def pause_writing(self) -> None:
        self.writing_paused = True
        if self.tunnel is not None:
            self.tunnel.pause_writing()

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)
        if self.tunnel is not None:
            self.tunnel.resume_writing()
        elif self._linger_s:
            self._end_after(self._linger_s)

    # For the relay.

    def send(self, data: bytes) -> None:
        """Write to the agent. Raises ConnectionResetError where it is gone."""
        if self.transport is None:
            raise ConnectionResetError("the agent is gone")
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the agent takes more. Raises ConnectionError where it is gone."""
        if self.transport is None:
            raise ConnectionResetError("the agent is gone")
        if self.writing_paused:
            self._drain_waiter = self._loop.create_future()
            await self._drain_waiter

    def abort(self) -> None:
        """Cut the connection, so that the agent sees a broken answer and no clean end."""
        if self.transport is None:
            return
        if self.ends_by_close:
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def close(self) -> None:
        """Take no further call, and close once what was written is sent."""
        self._is_over = True
        if self.transport is not None:
            self.transport.close()
            if self.transport.get_write_buffer_size():
                self._end_after(self._server.idle_timeout_s)

    def become_tunnel(self, tunnel: asyncio.Protocol) -> None:
        """After a 101: hand every further byte, and those that wait, to `tunnel`."""
        self.tunnel = tunnel
        self._resume_reading()  # first: the tunnel may pause it
        waiting, self._reader.behind_switch = self._reader.behind_switch, None
        if waiting:
            tunnel.data_received(bytes(waiting))

    def refuse(self, refusal: Refusal) -> None:
        """Answer without a request, and end."""
        if self.transport is not None:
            self.transport.write(refusal_bytes(refusal))
        self._linger(LINGER_S)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered or waits for it, nor an answer may be reset."""
        return self._task is None and not self._linger_s

    # Its calls, one after the other.

    async def _serve(self, request: Request) -> None:
        reader = self._reader
        while await self._answered(request) and not self._is_over:
            reader.go_on()
            following = reader.requests.popleft() if reader.requests else None
            self._balance()
            if following is None:
                self._task = None
                self._rest()
                return
            request = following
        self._task = None
        if self.tunnel is not None:
            self.close()
        else:
            self._linger(LINGER_S if request.body.is_over else LINGER_REST_S)

    async def _answered(self, request: Request) -> bool:
        """Answer one; whether the connection may go on."""
        try:
            return await self._server.handle(self, request) and request.body.is_whole
        except Exception as error:  # noqa: BLE001  the top of a task: one call's fault is its own
            _log.error("a request failed inside the gateway: %s", type(error).__name__)
            if self.transport is not None and not self.transport.is_closing():
                self.transport.write(refusal_bytes(_FAILED))
            return False

    def _rest(self) -> None:
        """Wait for the next request."""
        if self._reader.fault is not None:
            self.refuse(self._reader.fault)
        elif self._reader.is_in_head:
            self._end_after(self._server.header_timeout_s, awaits_head=True)
        else:
            self._end_after(KEEPALIVE_S)

    def _linger(self, seconds: float) -> None:
        """End behind an answer: say so, and read until the agent ends too, or for a while.

        Bytes that lie unread when a socket is closed, or come later, make the system send a reset
        and forget what it had still to send (RFC 9112 §9.6).
        """
        self._is_over = True
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        idle_timeout_s = self._server.idle_timeout_s
        self._linger_s = min(seconds, idle_timeout_s)
        self._reader.drop()
        self._resume_reading()
        transport.set_write_buffer_limits(high=0)  # so that `resume_writing` says: all is sent
        with contextlib.suppress(OSError):  # it was reset meanwhile: `connection_lost` follows
            transport.write_eof()
        self._end_after(idle_timeout_s if self.writing_paused else self._linger_s)

    # How much is read.

    def _balance(self) -> None:
        """Read on, or not: something waits already."""
        reader = self._reader
        if len(reader.requests) > PIPELINED_MAX or reader.waiting_bytes > HIGH_WATER_BYTES:
            if not self._is_reading_paused and self.transport is not None:
                self._is_reading_paused = True
                self.transport.pause_reading()
                self._server.unread.add(self.transport)
        else:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if self._is_reading_paused and self.transport is not None:
            self._is_reading_paused = False
            self._server.unread.discard(self.transport)
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # Its time. One timer, which is not touched by a call: it looks whether it is wanted.

    def _end_after(self, seconds: float, *, awaits_head: bool = False) -> None:
        """End the connection if nothing that counts comes for so long."""
        self._awaits_head = awaits_head
        if self.transport is None:
            return
        due_at = self._due_at = self._loop.time() + seconds
        if self._timer is None or self._timer_at > due_at:
            self._set_timer(due_at)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._look), at

    def _look(self) -> None:
        self._timer = None
        if self._due_at is None or self.transport is None:
            return
        if self._loop.time() < self._due_at:
            self._set_timer(self._due_at)
        elif self.transport.is_closing() or (self._linger_s and self.writing_paused):
            self.transport.abort()  # the agent does not take the last of its answer
        elif self._awaits_head:
            self.refuse(_LATE)
        else:
            self.close()


class AgentServer:
    """Makes an `AgentConnection` per connection, and counts them."""

    def __init__(
        self,
        handle: Callable[[AgentConnection, Request], Awaitable[bool]],
        limits: HeadLimits,
        *,
        header_timeout_s: float,
        idle_timeout_s: float,
        connections_max: int,
    ) -> None:
        """`handle` answers a request and says whether its connection may go on."""
        self.handle = handle
        self.limits = limits
        self.header_timeout_s = header_timeout_s
        self.idle_timeout_s = idle_timeout_s
        self.connections: set[AgentConnection] = set()
        self.unread = Unread()
        self.is_closed = False  # what was accepted in that moment is turned away
        self._connections_max = connections_max

    @property
    def is_full(self) -> bool:
        return len(self.connections) >= self._connections_max

    def __call__(self) -> AgentConnection:
        return AgentConnection(self)


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
