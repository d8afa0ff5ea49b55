"""Upload: sends one request to an upstream, its body as it arrives from the agent.

Each piece is appended to the tap before it goes on. What was sent is kept, up to a limit and until
the answer begins, so that a request can be begun again where a kept connection turns out stale.
"""

from __future__ import annotations

import asyncio

from proxy.wire.connection import Connection
from proxy.wire.faults import BodyFault
from proxy.wire.refusals import Refusal
from proxy.wire.request import Body
from proxy.wire.tap import Tap

REPEAT_BYTES_MAX = 1024 * 1024
JOINED_BYTES_MAX = 32 * 1024  # above, a copy costs more than several pieces
_STOPPED = (408, "the body of the request stopped arriving")


class Upload:
    """One request. `begin` sends it; a second `begin` repeats it on another connection."""

    __slots__ = (
        "_begun",
        "_content",
        "_head",
        "_idle_timeout_s",
        "_is_chunked",
        "_kept",
        "_kept_bytes",
        "_tap",
        "_task",
        "fault",
        "has_body_begun",
        "is_whole",
    )

    def __init__(
        self,
        head: bytes,
        content: Body,
        tap: Tap | None,
        begun: bytes,
        *,
        is_chunked: bool,
        idle_timeout_s: float,
    ) -> None:
        """`begun`: what of the body has been taken from `content` and appended to the tap."""
        self._head = head
        self._content = content
        self._tap = tap
        self._is_chunked = is_chunked
        self._idle_timeout_s = idle_timeout_s
        self._kept: list[bytes] | None = []
        self._kept_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self.fault: Refusal | None = None  # what the agent did wrong
        self.has_body_begun = False
        self.is_whole = False  # sent to its end
        self._begun = begun

    @property
    def is_repeatable(self) -> bool:
        return self._kept is not None and self.fault is None

    def forbid_repeat(self) -> None:
        """The answer has begun: what was kept is of no use any more."""
        self._kept = None

    def begin(self, connection: Connection) -> None:
        """Send head and body; what of the body has not arrived yet follows in a task."""
        self.stop()
        pieces = [self._head, *map(self._framed, self._kept or ())]
        if self._begun:
            pieces.append(self._framed(self._begun))
            self._keep(self._begun)
            self._begun = b""
        if not self._content.is_whole:
            connection.write(b"".join(pieces))
            sending = self._send_rest(connection)
            self._task = asyncio.get_running_loop().create_task(sending, name="upload")
            return
        rest = self._content.read_nowait()
        if rest:
            self._take(rest)
            pieces.append(self._framed(rest))
        self._finish(connection, pieces)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _send_rest(self, connection: Connection) -> None:
        try:
            while True:
                async with asyncio.timeout(self._idle_timeout_s):
                    piece = await self._content.read()
                if not piece:
                    break
                self._take(piece)
                connection.write(self._framed(piece))
                await connection.drain()
            self._finish(connection, [])
        except TimeoutError:
            self._fail(connection, Refusal(*_STOPPED))
        except BodyFault as fault:
            self._fail(connection, Refusal(fault.status, str(fault)))

    def _fail(self, connection: Connection, fault: Refusal) -> None:
        self.fault = fault
        connection.abort()  # which wakes whoever waits for the answer

    def _take(self, piece: bytes) -> None:
        if self._tap is not None:
            self._tap.request(piece)
        self._keep(piece)

    def _keep(self, piece: bytes) -> None:
        self.has_body_begun = True
        if self._kept is not None:
            self._kept_bytes += len(piece)
            self._kept.append(piece)
            if self._kept_bytes > REPEAT_BYTES_MAX:
                self._kept = None

    def _finish(self, connection: Connection, last: list[bytes]) -> None:
        self.is_whole = True
        if self._tap is not None:
            self._tap.request_complete()
        if self._is_chunked:
            last.append(b"0\r\n\r\n")
        if sum(map(len, last)) > JOINED_BYTES_MAX:
            connection.write_all(last)
        elif last:
            connection.write(b"".join(last))
        connection.sent()

    def _framed(self, piece: bytes) -> bytes:
        return chunk(piece) if self._is_chunked else piece


async def whole_body(content: Body, begun: bytes, bytes_max: int, idle_timeout_s: float) -> bytes:
    """The body, read to its end; `begun` was read before. Raises BodyFault."""
    found = bytearray(begun)
    try:
        while len(found) <= bytes_max:
            async with asyncio.timeout(idle_timeout_s):
                piece = await content.read()
            if not piece:
                return bytes(found)
            found += piece
        raise BodyFault(413, f"a body over {bytes_max} bytes is not taken here")
    except TimeoutError:
        raise BodyFault(*_STOPPED) from None


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body, RFC 9112 §7.1; `data` is not empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)
