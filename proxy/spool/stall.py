"""Stall: keeps a disk that stands still away from the calls.

Appends run in the caller's thread, where they cost microseconds, until one takes over 50 ms or the
disk has been at one sync for that long. From then on they run in a thread of their own, in order.
The caller waits for its append there, so that what an agent sees is still on the disk first, until
the thread has been asleep in it for 50 ms: time alone would take a busy machine for a disk that
stands still. Then the disk is stuck, and nobody waits for it. Once it moves again, each append
gives the thread a few milliseconds to catch up; when it has, appends return to the caller.

What waits in memory is bounded in bytes: beyond, new calls are lost (`stalled`) and bodies are cut.
The ends of calls always wait. A process that is killed while the disk stands still loses what waits
here; and the one append that meets a sudden stall first cannot be taken back from the kernel.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Condition, Thread
from typing import ParamSpec, TypeVar
from uuid import UUID

from proxy.exchange import AnswerHead, End, Start
from proxy.spool.asleep import Watch
from proxy.spool.totals import Loss
from proxy.spool.writer import SpoolWriter

T = TypeVar("T")
P = ParamSpec("P")

STALL_S = 0.05
GRACE_S = 0.005  # between looks at the thread, and what a call gives one that catches up
WAIT_MAX_S = 2.0  # for an append whose thread is not asleep: nothing holds a call up for ever
CALM_S = 0.25  # without anything to write after a stall, before appends return to the caller
WAITING_BYTES_MAX = 64 * 1024 * 1024
CLOSE_S = 5.0
_RECORD_BYTES = 256  # what a waiting record takes beside its data


class StallGuard:
    """A `SpoolWriter` that does not hold its caller up while the disk is stuck. Same methods."""

    def __init__(
        self,
        writer: SpoolWriter,
        *,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._sync = writer.sync
        self._waiting_bytes_max = waiting_bytes_max
        self._clock = clock
        self.waits_for_disk = writer.waits_for_disk
        self._changed = Condition()  # guards everything below
        self._waiting: deque[tuple[Callable[[], object], int]] = deque()
        self._waiting_bytes = 0
        self._queued = self._written = 0
        self._stalled = 0  # calls lost and not yet counted in the page
        self._worker: Thread | None = None
        self._is_stuck = False  # the disk held the append in the thread up for longer than a call
        self._moved_at = -math.inf  # when the thread last had one done
        self._missed: dict[UUID, list[int]] = {}  # bytes taken here that the writer then refused

    @property
    def is_stalled(self) -> bool:
        """Whether appends run in the thread now."""
        return self._worker is not None

    @property
    def is_full(self) -> bool:
        return self._waiting_bytes >= self._waiting_bytes_max if self._worker else self._is_full()

    def start(self, start: Start) -> bool:
        if self._is_direct():
            return self._timed(self._writer.start, start)
        return self._start_later(partial(self._writer.start, start))

    def begin(self, id: UUID, start: bytes, at_us: int, body: bytes) -> int | None:
        if self._is_direct():
            if self._stalled:
                self._count_stalled()
            began = self._clock()
            kept = self._writer.begin(id, start, at_us, body)
            self._look_back(began)
            return kept
        if not self._start_later(partial(self._writer.begin, id, start, at_us, b"")):
            return None
        return len(body) if body and self._body(0, id, at_us, body) else 0

    def request(self, id: UUID, at_us: int, data: bytes) -> bool:
        if self._is_direct():
            return self._timed(self._writer.request, id, at_us, data)
        return self._body(0, id, at_us, data)

    def head(self, id: UUID, head: AnswerHead) -> bool:
        if self._is_direct():
            return self._timed(self._writer.head, id, head)
        return self._later(partial(self._writer.head, id, head), 0)

    def response(self, id: UUID, at_us: int, data: bytes) -> bool:
        if self._is_direct():
            began = self._clock()
            is_kept = self._writer.response(id, at_us, data)
            self._look_back(began)
            return is_kept
        return self._body(1, id, at_us, data)

    def end(self, id: UUID, end: End) -> bool:
        if self._is_direct():
            return self._timed(self._end, id, end)
        return self._later(partial(self._end, id, end), 0)

    def finish(self, id: UUID, head: AnswerHead | None, at_us: int, data: bytes, end: End) -> None:
        if self._is_direct():
            began = self._clock()
            self._writer.finish(id, head, at_us, data, self._corrected(id, end))
            self._look_back(began)
            return
        if head is not None:
            self._later(partial(self._writer.head, id, head), 0)
        if data and not self._body(1, id, at_us, data):
            end = replace(end, response_kept=end.response_kept - len(data))
        self._later(partial(self._end, id, end), 0)

    async def synced(self) -> None:
        """As the writer's; what still waits for the disk here is not waited for longer."""
        await self._writer.synced()

    def seal_if_due(self) -> None:
        if self._is_direct():
            self._writer.seal_if_due()

    def close(self) -> None:
        """Write what waits, unless the disk stands still for too long, and close the writer."""
        worker = self._worker
        if worker is not None:
            worker.join(CLOSE_S)
        if self._worker is None:
            self._count_stalled()
            self._writer.close()

    def _is_full(self) -> bool:
        return self._writer.is_full

    def _is_direct(self) -> bool:
        """Whether the caller may append itself."""
        if self._worker is not None:
            return False
        return self._sync.syncing_since is None or not self._sync.is_busy

    def _timed(self, append: Callable[P, T], *values: P.args, **named: P.kwargs) -> T:
        if self._stalled:
            self._count_stalled()
        began = self._clock()
        result = append(*values, **named)
        self._look_back(began)
        return result

    def _look_back(self, began: float) -> None:
        """Leave the appends to the thread where the one that began then took too long."""
        if self._clock() - began > STALL_S:
            self._begin()

    def _start_later(self, append: Callable[[], object]) -> bool:
        if self._later(append, _RECORD_BYTES):
            return True
        with self._changed:
            self._stalled += 1
        return False

    def _body(self, side: int, id: UUID, at_us: int, data: bytes) -> bool:
        if self._later(partial(self._write_body, side, id, at_us, data), len(data) + _RECORD_BYTES):
            return True
        self._later(partial(self._writer.cut, id, is_request=side == 0), 0)
        return False

    def _later(self, append: Callable[[], object], size: int) -> bool:
        """Let the thread append; False where what waits has its size. `size` 0: always taken."""
        with self._changed:
            if size and self._waiting_bytes + size > self._waiting_bytes_max:
                return False
            self._waiting.append((append, size))
            self._waiting_bytes += size
            self._queued += 1
            ticket = self._queued
            self._begin()
            self._changed.notify_all()
            self._wait(lambda: self._written >= ticket)
            return True

    def _wait(self, is_done: Callable[[], bool]) -> None:
        """Wait for an append in the thread, unless the disk is stuck; it is once this proves it."""
        if self._is_stuck:
            if self._clock() - self._moved_at <= STALL_S:
                self._changed.wait_for(is_done, GRACE_S)
            return
        watch = Watch(self._worker.native_id if self._worker else None)
        deadline = time.monotonic() + WAIT_MAX_S
        while not self._changed.wait_for(is_done, GRACE_S):
            if watch.asleep_s() > STALL_S or time.monotonic() > deadline:
                self._is_stuck = True
                return

    def _begin(self) -> None:
        if self._worker is None:
            self._worker = Thread(target=self._work, name="spool-stalled", daemon=True)
            self._worker.start()

    # In the thread.

    def _work(self) -> None:
        is_calm = False
        while (entry := self._next(is_calm)) is not None:
            append, size = entry
            began = self._clock()
            append()
            if self._stalled:
                self._count_stalled()
            now = self._clock()
            is_calm = now - began <= STALL_S
            with self._changed:
                self._moved_at = now
                self._waiting_bytes -= size
                self._written += 1
                self._is_stuck &= bool(self._waiting)
                self._changed.notify_all()

    def _next(self, is_calm: bool) -> tuple[Callable[[], object], int] | None:
        """The next append; None, and the thread's end, once the disk is quick and nothing waits."""
        with self._changed:
            while not self._waiting:
                if is_calm and not self._writer.is_disk_busy:
                    self._worker = None
                    return None
                is_calm = not self._changed.wait(CALM_S)
            return self._waiting.popleft()

    def _write_body(self, side: int, id: UUID, at_us: int, data: bytes) -> None:
        write = self._writer.response if side else self._writer.request
        if not write(id, at_us, data):
            self._missed.setdefault(id, [0, 0])[side] += len(data)

    def _end(self, id: UUID, end: End) -> bool:
        return self._writer.end(id, self._corrected(id, end))

    def _corrected(self, id: UUID, end: End) -> End:
        """The end without what the writer has refused since the call was told it is kept."""
        if not self._missed:
            return end
        request, response = self._missed.pop(id, (0, 0))
        if not request and not response:
            return end
        return replace(
            end,
            request_kept=end.request_kept - request,
            response_kept=end.response_kept - response,
        )

    def _count_stalled(self) -> None:
        with self._changed:
            count, self._stalled = self._stalled, 0
        self._writer.lose(count, Loss.STALLED)
