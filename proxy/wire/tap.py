"""Tap: the recorder of one exchange on the byte path.

It counts and appends what passes, and knows nothing of HTTP or of sockets. Its rules:

- What is relayed is appended before it is released, and the end before the last byte, so a call
  that an agent saw whole is whole in the sink. What is released together is appended together.
- It is fenced: a fault inside is counted and nothing more is kept; the call never notices.
- What is kept of a body is a prefix of it: after `max_body_bytes`, or the first piece that the sink
  did not take, the rest is only counted.
- A body is hashed here unless its announced length says that it will be kept whole: then the hash
  can be taken later, from what is kept. Hashing costs more than all else that is done to it.
- It ends once. Later ends, and pieces after the end, are ignored.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from hashlib import sha256
from time import monotonic_ns
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from proxy.exchange import AnswerHead, End, Headers, Outcome, Start

if TYPE_CHECKING:
    from hashlib import _Hash


HASHED_BYTES = 8192  # at once: for an event alone it costs as much to begin as to hash


class Sink(Protocol):
    """Where exchanges go. Its methods never block and never raise; False: not kept, and counted."""

    @property
    def is_full(self) -> bool: ...

    @property
    def waits_for_disk(self) -> bool:
        """Whether the end of a call is to wait for `synced`."""

    async def synced(self) -> None: ...

    def start(self, start: Start) -> bool: ...

    def begin(self, id: UUID, start: bytes, at_us: int, body: bytes) -> int | None:
        """`start` is a `Start` as bytes, `body` what of the request's is there already.

        How many bytes of the body are kept; None: the call is not taken.
        """

    def request(self, id: UUID, at_us: int, data: bytes) -> bool: ...

    def head(self, id: UUID, head: AnswerHead) -> bool: ...

    def response(self, id: UUID, at_us: int, data: bytes) -> bool: ...

    def end(self, id: UUID, end: End) -> bool: ...

    def finish(self, id: UUID, head: AnswerHead | None, at_us: int, data: bytes, end: End) -> None:
        """Head, last piece and end together; `end` takes the piece for kept."""


def mint_id(at_ns: int) -> UUID:
    """A UUIDv7 (RFC 9562 §5.7): milliseconds, 12 bits of their fraction, 62 random bits."""
    ms, rest_ns = divmod(at_ns, 1_000_000)
    fraction = rest_ns * 4096 // 1_000_000
    tail = random.getrandbits(62)  # unique, which is all that an id must be
    return UUID(int=(ms & (1 << 48) - 1) << 80 | 7 << 76 | fraction << 64 | 2 << 62 | tail)


class _Body:
    """One body as it passes: its size, and how much of it the sink holds."""

    __slots__ = ("_hash", "_hashed", "_is_hashed", "_unhashed", "is_kept", "kept", "room", "size")

    def __init__(self, room: int) -> None:
        self._hash: _Hash | None = None
        self._hashed = 0  # bytes
        self._unhashed: list[bytes] = []
        self._is_hashed = True
        self.size = 0
        self.kept = 0
        self.room = room
        self.is_kept = True

    def expect(self, announced: bytes | None) -> None:
        """The length that the head announces, before any piece comes."""
        if announced is not None and len(announced) < 20 and announced.isdigit():
            self._is_hashed = int(announced) > self.room

    @property
    def sha256(self) -> str:
        """In hex; empty where it was not taken."""
        if not self._is_hashed:
            return ""
        return self._up_to_here().hexdigest()

    def count(self, data: bytes) -> bytes:
        """Count a piece; what of it is to be kept."""
        self.size += len(data)
        if self._is_hashed:
            self._unhashed.append(data)
            if self.size - self._hashed >= HASHED_BYTES:
                self._up_to_here()
        if not self.is_kept:
            return b""
        room = self.room - self.kept
        if len(data) <= room:
            return data
        self.is_kept = False
        return data[:room]

    def refuse(self, data: bytes) -> None:
        """What was counted last has not been taken."""
        self.is_kept = False
        if self.size == len(data) and not self._is_hashed:  # nothing of it will be kept
            self._is_hashed = True
            self._unhashed.append(data)

    def _up_to_here(self) -> _Hash:
        if self._hash is None:
            self._hash = sha256()
        self._hash.update(b"".join(self._unhashed))
        self._unhashed.clear()
        self._hashed = self.size
        return self._hash


class Tap:
    """Begun by `open`; every method is safe to call at any time."""

    __slots__ = (
        "_answer",
        "_began",
        "_head",
        "_id",
        "_is_on",
        "_is_recorded_elsewhere",
        "_last",
        "_last_us",
        "_on_fault",
        "_request",
        "_request_is_complete",
        "_sink",
    )

    def __init__(
        self, sink: Sink, id: UUID, began_ns: int, room: int, on_fault: Callable[[], None]
    ) -> None:
        self._sink = sink
        self._id = id
        self._began = began_ns
        self._request = _Body(room)
        self._answer = _Body(room)
        self._on_fault = on_fault
        self._is_on = True
        self._request_is_complete = False
        self._is_recorded_elsewhere = False
        self._head: AnswerHead | None = None  # not appended yet, like the last piece
        self._last = b""
        self._last_us = 0

    @classmethod
    def open(
        cls,
        sink: Sink,
        id: UUID,
        start_of: Callable[[], bytes],
        began_ns: int,
        room: int,
        on_fault: Callable[[], None],
        *,
        body: bytes = b"",
        announced: bytes | None = None,
    ) -> Tap | None:
        """A tap on the call, or None where the sink does not take it.

        `start_of` makes the bytes of the start inside the fence; `began_ns` is the arrival on the
        monotonic clock, `room` what is kept of each body, `body` what of the request's is there
        already, `announced` its Content-Length.
        """
        try:
            tap = cls(sink, id, began_ns, room, on_fault)
            tap._request.expect(announced)
            kept = tap._request.count(body) if body else b""
            taken = sink.begin(id, start_of(), tap._now_us(), kept)
            if taken is None:
                return None
            if taken == len(kept):
                tap._request.kept = taken
            elif kept:
                tap._request.refuse(kept)
            return tap
        except Exception:  # noqa: BLE001  the fence: no fault of recording reaches the call
            on_fault()
            return None

    def request(self, data: bytes) -> None:
        """A piece of the request's body, before it is sent to the upstream."""
        if not self._is_on:
            return
        try:
            kept = self._request.count(data)
            if not kept:
                return
            if self._sink.request(self._id, self._now_us(), kept):
                self._request.kept += len(kept)
            else:
                self._request.refuse(kept)
        except Exception:  # noqa: BLE001  the fence, as above
            self._fail()

    def request_complete(self) -> None:
        """The agent has sent its request to the end."""
        self._request_is_complete = True

    def head(
        self,
        status: int,
        headers_of: Callable[[], Headers],
        *,
        announced: bytes | None = None,
        is_recorded_elsewhere: bool = False,
    ) -> None:
        """The head of the final answer; `headers_of` makes what is kept, `announced` is its length.

        It is appended with what follows, or by `release`.
        """
        if not self._is_on:
            return
        self._is_recorded_elsewhere = is_recorded_elsewhere
        try:
            self._answer.expect(announced)
            self._head = AnswerHead(self._now_us(), status, headers_of())
        except Exception:  # noqa: BLE001  the fence, as above
            self._fail()

    def release(self) -> None:
        """Append the head now: it is released alone."""
        head, self._head = self._head, None
        if head is None or not self._is_on:
            return
        try:
            self._sink.head(self._id, head)
        except Exception:  # noqa: BLE001  the fence, as above
            self._fail()

    def response(self, data: bytes, *, is_last: bool = False) -> None:
        """A piece of the answer's body, before it is released to the agent.

        `is_last`: the end follows before anything is released, and is appended together with it.
        """
        if not self._is_on:
            return
        if self._head is not None and not is_last:
            self.release()
        try:
            kept = self._answer.count(data)
            if not kept:
                return
            at_us = (monotonic_ns() - self._began) // 1000
            if is_last:
                self._last, self._last_us = kept, at_us
            elif not self._sink.response(self._id, at_us, kept):
                self._answer.refuse(kept)
                return
            self._answer.kept += len(kept)
        except Exception:  # noqa: BLE001  the fence, as above
            self._fail()

    def end(self, outcome: Outcome, error: str | None = None) -> None:
        """How the call ended; the first end counts."""
        if not self._is_on:
            return
        self._is_on = False
        head, last, self._head, self._last = self._head, self._last, None, b""
        try:
            end = self._end(outcome, error)
            if head is None and not last:
                self._sink.end(self._id, end)
                return
        except Exception:  # noqa: BLE001  the fence, as above
            self._on_fault()
            return
        try:
            self._sink.finish(self._id, head, self._last_us, last, end)
        except Exception:  # noqa: BLE001  the fence: then the end alone, as after other faults
            self._on_fault()
            self._answer.kept -= len(last)
            with contextlib.suppress(Exception):
                self._sink.end(self._id, self._end(outcome, error))

    def _end(self, outcome: Outcome, error: str | None) -> End:
        return End(
            self._now_us(),
            outcome,
            error,
            request_bytes=self._request.size,
            response_bytes=self._answer.size,
            request_sha256=self._request.sha256,
            response_sha256=self._answer.sha256,
            request_complete=self._request_is_complete,
            request_kept=self._request.kept,
            response_kept=self._answer.kept,
            is_recorded_elsewhere=self._is_recorded_elsewhere,
        )

    def _fail(self) -> None:
        """Nothing more is kept but the end, so that the exchange does not stay open for ever."""
        self._request.is_kept = self._answer.is_kept = False
        self._on_fault()

    def _now_us(self) -> int:
        return (monotonic_ns() - self._began) // 1000
