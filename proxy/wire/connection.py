"""Connection: one HTTP/1.1 connection to a provider, one exchange at a time.

It moves bytes and waits; `AnswerReader` knows what they mean. It does not retry or pool.

Rules: bounded buffers both ways; no total timeout, only one between bytes; after a fault, surplus
bytes or an unfinished exchange the connection is closed and never used again.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import cast

from proxy.wire.answer import AnswerReader, Head, HeadLimits
from proxy.wire.faults import UpstreamFault, UpstreamTimeout

HIGH_WATER_BYTES = 128 * 1024  # what waits for a slow agent before reading stops
LOW_WATER_BYTES = 32 * 1024
WRITE_HIGH_BYTES = 256 * 1024  # what waits for a slow upstream before the agent is held back


class Connection(asyncio.Protocol):
    """`begin`, `write`…, `sent`, then `head` until it is final, `read` until b"", `finish`."""

    def __init__(self, limits: HeadLimits, idle_timeout_s: float) -> None:
        self._limits = limits
        self._idle_timeout_s = idle_timeout_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._answer: AnswerReader | None = None
        self._spare: AnswerReader | None = None  # of the last exchange, for the next one
        self._tunnel: asyncio.Protocol | None = None
        self._pieces: deque[bytes] = deque()
        self._pass_on: Callable[[bytes], bool] | None = None
        self._size = 0
        self._fault: UpstreamFault | None = None
        self._request_is_sent = False
        self._waiter: asyncio.Future[None] | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._is_writing_paused = False
        self._is_reading_paused = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._poll: select.poll | None = None
        self._active_at = 0.0
        self.idle_since = 0.0

    # The exchange, as the relay sees it.

    def begin(self, *, is_head_only: bool) -> None:
        """Start an exchange; `is_head_only`: its answer has no body (HEAD)."""
        answer, self._spare = self._spare, None
        if answer is None:
            answer = AnswerReader(self._limits, is_head_only=is_head_only)
        else:
            answer.begin(is_head_only=is_head_only)
        self._answer = answer
        self._request_is_sent = False
        if self._transport is None:
            answer.feed_break()
        self._active_at = self._loop.time()
        if self._watchdog is None and self._transport is not None:
            self._watch(self._idle_timeout_s)

    def write(self, data: bytes) -> None:
        """Send; bytes written after a fault are dropped, since reading tells the fault."""
        self._active_at = self._loop.time()
        if self._transport is not None:
            self._transport.write(data)

    def write_all(self, pieces: list[bytes]) -> None:
        """As `write`, of several pieces without a copy of them."""
        self._active_at = self._loop.time()
        # Else some versions of asyncio watch the number of a descriptor that is closed next.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(pieces)

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
        answer = cast(AnswerReader, self._answer)
        while not answer.heads:
            self._raise_fault(answer)
            await self._wait()
        return answer.heads.popleft()

    async def read(self) -> bytes:
        """The next piece of the body, b"" at its end. Raises UpstreamFault."""
        answer = cast(AnswerReader, self._answer)
        while not self._pieces:
            if answer.is_complete:
                return b""
            self._raise_fault(answer)
            await self._wait()
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if self._is_reading_paused and self._size <= LOW_WATER_BYTES:
            self._resume_reading()
        return piece

    def pass_on(self, receive: Callable[[bytes], bool]) -> None:
        """From now on offer each piece to `receive` as it comes, before it is kept for `read`.

        Only while nothing is kept, and never the last one. `receive` says whether it took it.
        """
        self._pass_on = receive

    @property
    def has_answered(self) -> bool:
        """Whether at least one byte of the answer came."""
        return self._answer is not None and self._answer.has_begun

    @property
    def has_piece(self) -> bool:
        """Whether `read` would return at once with a piece."""
        return bool(self._pieces)

    @property
    def is_drained(self) -> bool:
        """Whether the body has been read to its end."""
        return not self._pieces and self._answer is not None and self._answer.is_complete

    def finish(self) -> bool:
        """End the exchange; True if the connection may be used again, else it is closed."""
        is_reusable = self._is_reusable()
        answer, self._answer = self._answer, None
        if answer is not None and is_reusable and answer.leaves_parser_clean:
            self._spare = answer
        elif answer is not None:
            answer.release()
        self._pass_on = None
        if self._tunnel is not None:
            self.close()  # what the tunnel wrote may still be on its way
        elif not is_reusable:
            self.abort()
        return is_reusable

    def _is_reusable(self) -> bool:
        answer = self._answer
        return (
            answer is not None
            and answer.keeps_alive
            and not answer.has_surplus
            and self.is_drained
            and self._request_is_sent
            and self._fault is None
            and self._tunnel is None
            and self.is_open
        )

    # Its life.

    @property
    def transport(self) -> asyncio.Transport | None:
        """The socket's transport while it is open."""
        return self._transport

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def has_unread(self) -> bool:
        """Whether the socket holds something unread: on an idle connection, its end."""
        if self._transport is None:
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(self._poll.poll(0))

    def become_tunnel(self, receiver: asyncio.Protocol) -> None:
        """After a 101: hand every further byte, and the end, to `receiver`."""
        self._tunnel = receiver
        self._stop_watching()
        self._resume_reading()
        while self._pieces:
            receiver.data_received(self._pieces.popleft())
        if not self.is_open:
            receiver.connection_lost(None)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.data_received(data)
            return
        if self._answer is None:  # between two exchanges nothing may come
            self.abort()
            return
        self._active_at = self._loop.time()
        answer = self._answer
        piece = answer.feed(data)
        if (
            self._pass_on is not None
            and not (self._pieces or answer.is_complete)
            and answer.fault is None
            and (not piece or self._pass_on(piece))
        ):
            return
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size > HIGH_WATER_BYTES:
                self._pause_reading()
        if answer.fault is not None:
            self.abort()
        self._wake()

    def eof_received(self) -> bool | None:
        return self._tunnel.eof_received() if self._tunnel is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._stop_watching()
        if self._spare is not None:
            self._spare.release()
            self._spare = None
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)
        if self._tunnel is not None:
            self._tunnel.connection_lost(exc)
        elif self._answer is not None:
            if exc is None and self._fault is None:
                self._answer.feed_eof()
            else:
                self._answer.feed_break()
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

    def _pause_reading(self) -> None:
        if not self._is_reading_paused and self.is_open:
            self._is_reading_paused = True
            cast(asyncio.Transport, self._transport).pause_reading()

    def _resume_reading(self) -> None:
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._active_at = self._loop.time()
            if self.is_open:
                cast(asyncio.Transport, self._transport).resume_reading()

    # Waiting, and its limit.

    def _raise_fault(self, answer: AnswerReader) -> None:
        if self._fault is not None:
            raise self._fault
        if answer.fault is not None:
            raise answer.fault

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # A timer costs more than all else here, so one goes on from exchange to exchange.

    def _watch(self, delay_s: float) -> None:
        self._watchdog = self._loop.call_later(delay_s, self._check_idle)

    def _stop_watching(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _check_idle(self) -> None:
        """Fail if the upstream owes us something and nothing moved for the idle timeout."""
        self._watchdog = None
        if self._answer is None:  # between two exchanges
            return
        limit_s = self._idle_timeout_s
        quiet_s = self._loop.time() - self._active_at
        is_owing = self._waiter is not None and (self._request_is_sent or self._is_writing_paused)
        if not is_owing:
            self._watch(limit_s)
        elif quiet_s < limit_s:
            self._watch(limit_s - quiet_s)
        else:
            self._fault = UpstreamTimeout(f"the upstream was silent for {limit_s:g} s")
            self.abort()
            self._wake()
