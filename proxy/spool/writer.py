"""Writer: appends what the gateway sees to the slot's segments. The gateway's only cost.

One `writev` per record, no lock, no wait. After construction nothing here raises: what cannot be
written is counted by reason in the slot's page and the call goes on. The writer recovers
by itself when space returns.

Rules
- A call is captured by its START. Without it the later records are refused, uncounted.
- Bodies are kept up to the first byte that could not be: what follows is refused, so that the spool
  holds a beginning, never a hole. `End.request_kept` and `End.response_kept` tell the reader.
- The last sixteenth of `max_bytes` is for heads and ends: when space runs out bodies go first,
  then new calls; a call that was begun always gets its end. The same where the disk is full before
  the spool has its size: a reserve is given away for heads and ends (`reserve`). An END that the
  disk refuses is written as soon as the disk takes anything again.
- After a short write or an I/O error the segment is left as it is and a new one begun, at most ten
  a second: a disk that fails each time must not be filled with beginnings.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

from proxy.errors import SpoolUnusable
from proxy.exchange import AnswerHead, End, Start
from proxy.spool import slot
from proxy.spool.page import Page, pack
from proxy.spool.recovery import recovered
from proxy.spool.reserve import RESERVE_BYTES, Reserve
from proxy.spool.segment import (
    HEADER_BYTES,
    PAYLOAD_BYTES_MAX,
    Kind,
    header_bytes,
)
from proxy.spool.sync import SyncThread
from proxy.spool.totals import Loss

SEGMENT_BYTES = 64 * 1024 * 1024
SEGMENT_S = 10.0
SYNC_S = 0.02
SYNC_WAIT_MAX_S = 2.0  # a disk that hangs must not hold an agent's answer for ever
RETRY_S = 0.1  # between new segments on a disk that fails, and looks whether a full one has room
SUSPECT_S = 1.0  # age of a segment whose sync failed
MEASURE_S = 0.1  # how often a full spool is measured again
OWED_ENDS_MAX = 10_000
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC


# Looked up once: the members of an enumeration cost a call each time.
_BOOT, _START, _REQUEST = int(Kind.BOOT), int(Kind.START), int(Kind.REQUEST)
_HEAD, _RESPONSE, _END = int(Kind.HEAD), int(Kind.RESPONSE), int(Kind.END)


class _Pausing(OSError):
    """The disk failed a moment ago and has not been tried again yet."""


class _Open:
    """A call that was begun and has not ended. `key` is its id in records."""

    __slots__ = ("is_request_cut", "is_response_cut", "key", "next_part")

    def __init__(self, key: bytes, next_part: int = 1) -> None:
        self.key = key
        self.next_part = next_part
        self.is_request_cut = False
        self.is_response_cut = False


class SpoolWriter:
    """One slot of the spool, taken for the life of the process.

    Raises SpoolUnusable where the directory cannot be used or has no room for the slot itself.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        segment_s: float = SEGMENT_S,
        sync_s: float = SYNC_S,
        waits_for_disk: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._bodies_bytes_max = max_bytes - max_bytes // 16
        self._segment_bytes = segment_bytes
        self._segment_s = segment_s
        self._clock = clock
        self.waits_for_disk = waits_for_disk
        self._open: dict[int, _Open] = {}  # by the id as a number, which is quick to look up
        self._owed: dict[bytes, tuple[int, int, bytes]] = {}
        self._path, self._lock = slot.take_slot(root)
        try:
            self._counters = recovered(self._path)
            self._page = Page(self._path / slot.CAPTURED)
            self._page.write(self._counters.counters())
        except OSError as error:
            os.close(self._lock)
            raise SpoolUnusable(
                f"{self._path}: {error.strerror}; make room, or move what lies in its way"
            ) from error
        self._fd: int | None = None
        self._offset = 0
        self._straight_until = 0  # bodies are appended up to here without a look at all the rest
        self._old_at = self._failed_at = -math.inf
        self._errno = 0
        self._is_boot_due = True
        self._is_closed = False
        self._used, self._measured_at = 0, 0.0
        self._reserve = Reserve(self._path / slot.RESERVE, min(RESERVE_BYTES, max_bytes // 64))
        self._looked_at = -math.inf
        self._measure()
        self.sync = SyncThread(self._path, sync_s)
        self._boot()

    @property
    def slot(self) -> int:
        return int(self._path.name)

    @property
    def is_full(self) -> bool:
        """Whether bodies are no longer kept: the spool has its size, or the disk is full."""
        return not self._has_room(self._bodies_bytes_max) or self._is_scarce()

    @property
    def is_disk_busy(self) -> bool:
        """Whether the disk has been at one sync for longer than it should take."""
        return self.sync.is_busy

    def start(self, start: Start) -> bool:
        """Begin a call. False: it is not captured, and counted as lost."""
        return self._start(start.id, _encoded(start))

    def _start(self, id: UUID, payload: bytes | None) -> bool:
        if self._is_closed:
            return False
        self._settle_owed()
        key = id.bytes
        loss = self._append_start(key, payload)
        if loss is None:
            self._open[id.int] = _Open(key)
            self._counters.sequence += 1
        else:
            self._counters.lost[loss] += 1
        self._write_page()
        return loss is None

    def begin(self, id: UUID, start: bytes, at_us: int, body: bytes) -> int | None:
        """Begin a call and keep what of its request's body is at hand, in one write.

        `start` is what `Start.to_bytes` gives. How many bytes of the body are kept; None: the call
        is not captured, and counted as lost.
        """
        if 0 < len(body) <= PAYLOAD_BYTES_MAX:
            key, sequence = id.bytes, self._counters.sequence + 1
            head = header_bytes(_START, key, start, 0, sequence)
            records = (head, start, header_bytes(_REQUEST, key, body, 1, at_us), body)
            whole = self._write_straight(2 * HEADER_BYTES + len(start) + len(body), records)
            if whole:
                self._open[id.int] = _Open(key, next_part=whole)
                self._counters.sequence = sequence
                self._write_page()
                return len(body) if whole == 2 or self.request(id, at_us, body) else 0
        if not self._start(id, start):
            return None
        return len(body) if body and self.request(id, at_us, body) else 0

    def request(self, id: UUID, at_us: int, data: bytes) -> bool:
        call = self._open.get(id.int)
        if call is None or call.is_request_cut:
            return False
        if self._append_straight(_REQUEST, call, at_us, data):
            return True
        if not self._append_body(_REQUEST, call, at_us, data):
            call.is_request_cut = True
            self._count_truncated(call.is_response_cut)
        return not call.is_request_cut

    def head(self, id: UUID, head: AnswerHead) -> bool:
        call = self._open.get(id.int)
        payload = _encoded(head)
        if call is None or payload is None:
            return False
        loss = self._append(_HEAD, call.key, payload, part=call.next_part, number=head.at_us)
        call.next_part += 1  # also where it failed: the gap says that something is missing
        return loss is None

    def response(self, id: UUID, at_us: int, data: bytes) -> bool:
        call = self._open.get(id.int)
        if call is None or call.is_response_cut:
            return False
        if self._append_straight(_RESPONSE, call, at_us, data):
            return True
        if not self._append_body(_RESPONSE, call, at_us, data):
            call.is_response_cut = True
            self._count_truncated(call.is_request_cut)
        return not call.is_response_cut

    def end(self, id: UUID, end: End) -> bool:
        """End a call. False: its end is written later, when the disk allows."""
        call = self._open.pop(id.int, None)
        if call is None:
            return False
        payload = _encoded(end) or replace(end, error="unprintable").to_bytes()
        self._settle_owed()
        loss = self._append(_END, call.key, payload, part=call.next_part, number=end.at_us)
        if loss is not None and len(self._owed) < OWED_ENDS_MAX:
            self._owed[call.key] = (call.next_part, end.at_us, payload)
            self._straight_until = 0
        return loss is None

    def finish(self, id: UUID, head: AnswerHead | None, at_us: int, data: bytes, end: End) -> None:
        """The last of a call in one write: its answer's head, a last piece of the body, its end.

        `end` says that the piece is kept; where it cannot be, the end that is written says so.
        """
        call = self._open.get(id.int)
        if (
            call is not None
            and 0 < len(data) <= PAYLOAD_BYTES_MAX
            and not call.is_response_cut
            and self._straight_until
        ):
            key, part = call.key, call.next_part
            pieces: list[bytes] = []
            payload = _encoded(head) if head is not None else None
            if head is not None and payload is not None:
                pieces += header_bytes(_HEAD, key, payload, part, head.at_us), payload
                part += 1
            pieces += header_bytes(_RESPONSE, key, data, part, at_us), data
            payload = _encoded(end) or replace(end, error="unprintable").to_bytes()
            pieces += header_bytes(_END, key, payload, part + 1, end.at_us), payload
            whole, records = self._write_straight(sum(map(len, pieces)), pieces), len(pieces) // 2
            if whole == records:
                del self._open[id.int]
                return
            call.next_part += whole
            if whole:
                head = None
            if whole == records - 1:
                data = b""
        if head is not None:
            self.head(id, head)
        if data and not self.response(id, at_us, data):
            end = replace(end, response_kept=end.response_kept - len(data))
        self.end(id, end)

    def cut(self, id: UUID, *, is_request: bool) -> None:
        """Somebody else could not keep the rest of this body."""
        call = self._open.get(id.int)
        if call is None or (call.is_request_cut if is_request else call.is_response_cut):
            return
        self._count_truncated(call.is_request_cut or call.is_response_cut)
        if is_request:
            call.is_request_cut = True
        else:
            call.is_response_cut = True

    def lose(self, count: int, reason: Loss) -> None:
        """Somebody else could not keep so many calls."""
        self._counters.lost[reason] += count
        self._write_page()

    async def synced(self) -> None:
        """Wait until what was appended survives a power cut, or for as long as a call may wait."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        self.sync.call_when_synced(lambda: loop.call_soon_threadsafe(finish))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SYNC_WAIT_MAX_S):
                await done

    def seal_if_due(self) -> None:
        """Begin a new segment where the current one is old; to be called now and then.

        Without it the last bodies would stay on the disk of an idle gateway after their commit.
        """
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self._segment_for(0)

    def close(self) -> None:
        """Write what is owed, sync, and give the slot free."""
        if self._is_closed:
            return
        self._settle_owed()
        self._is_closed = True
        self._open.clear()
        self._retire()
        self.sync.close()
        self._reserve.close()
        self._write_page()
        self._page.close()
        os.close(self._lock)

    def _write_straight(self, size: int, pieces: Sequence[bytes]) -> int:
        """How many of these records, each a header and a payload, are written whole.

        What is not can be tried one by one, as if it had not been tried yet: so nothing is written
        where something is to be done first, which is seldom. What an event of a stream costs is
        how much code and memory it touches, with cold caches: so this is in one piece.
        """
        if (
            self._offset + size > self._straight_until
            or self._clock() >= self._old_at
            or (sync := self.sync).has_failed
        ):
            return 0
        try:
            written = os.writev(cast(int, self._fd), pieces)
        except OSError as error:
            self._refused(error)
            return 0
        self._offset += written
        self._used += written
        if not sync.is_dirty:
            sync.wake()
        return len(pieces) // 2 if written == size else self._short(written, pieces)

    def _short(self, written: int, pieces: Sequence[bytes]) -> int:
        """How many records are whole where only so many bytes were written."""
        self._give_up(errno.ENOSPC)
        whole = 0
        for header, payload in zip(pieces[::2], pieces[1::2], strict=True):
            written -= len(header) + len(payload)
            if written < 0:
                break
            whole += 1
        return whole

    def _append_start(self, key: bytes, payload: bytes | None) -> Loss | None:
        if payload is None:
            return Loss.TOO_LARGE
        if not self._has_room(self._max_bytes):
            return Loss.SPOOL_FULL
        sequence = self._counters.sequence + 1
        return self._append(_START, key, payload, number=sequence)

    def _append_straight(self, kind: int, call: _Open, at_us: int, data: bytes) -> bool:
        """Append a piece where nothing is to be done first."""
        if not 0 < len(data) <= PAYLOAD_BYTES_MAX:
            return False
        header = header_bytes(kind, call.key, data, call.next_part, at_us)
        whole = self._write_straight(HEADER_BYTES + len(data), (header, data))
        call.next_part += whole
        return whole == 1

    def _append_body(self, kind: int, call: _Open, at_us: int, data: bytes) -> bool:
        if not self._has_room(self._bodies_bytes_max) or self._is_scarce():
            return False
        if len(data) <= PAYLOAD_BYTES_MAX:
            pieces: list[bytes | memoryview] = [data]
        else:
            view, step = memoryview(data), PAYLOAD_BYTES_MAX
            pieces = [view[at : at + step] for at in range(0, len(view), step)]
        for piece in pieces:
            if self._append(kind, call.key, piece, part=call.next_part, number=at_us) is not None:
                return False
            call.next_part += 1
        return True

    def _append(
        self, kind: int, key: bytes, payload: bytes | memoryview, *, part: int = 0, number: int = 0
    ) -> Loss | None:
        """Write one record; why not, where it could not be written whole."""
        header = header_bytes(kind, key, payload, part, number)
        if self._is_boot_due and kind != _BOOT and (loss := self._boot()):
            return loss
        loss = self._write(header, payload)
        if loss is Loss.DISK_FULL and self._reserve.release():
            self._looked_at, self._failed_at, self._straight_until = self._clock(), -math.inf, 0
            if kind not in (_REQUEST, _RESPONSE):
                loss = self._write(header, payload)
        return loss

    def _write(self, header: bytes, payload: bytes | memoryview) -> Loss | None:
        size = len(header) + len(payload)
        try:
            fd = self._segment_for(size)
            written = os.writev(fd, (header, payload))
        except OSError as error:
            return self._refused(error)
        self._wrote(written)
        if written != size:
            self._give_up(errno.ENOSPC)
            return Loss.DISK_FULL
        return None

    def _wrote(self, count: int) -> None:
        """So many bytes are in the current segment; how many bodies may follow straight away."""
        self._offset += count
        self._used += count
        self.sync.wake()
        if self._is_boot_due or self._owed or self._reserve.is_spent:
            self._straight_until = 0
        else:
            left = self._bodies_bytes_max - self._used
            self._straight_until = min(self._segment_bytes, self._offset + left)

    def _boot(self) -> Loss | None:
        """Say that whatever this slot had open has crashed."""
        payload = pack(self._counters.counters())
        loss = self._append(_BOOT, uuid4().bytes, payload, number=self._counters.sequence)
        self._is_boot_due = loss is not None
        self._straight_until = 0
        return loss

    def _settle_owed(self) -> None:
        for key, (part, at_us, payload) in list(self._owed.items()):
            if self._append(_END, key, payload, part=part, number=at_us) is not None:
                return
            del self._owed[key]

    def _segment_for(self, size: int) -> int:
        """The segment that takes the next record, a new one where that is due."""
        now = self._clock()
        if self._fd is not None and not self._is_sealed(now, size):
            return self._fd
        if self._fd is None and now < self._failed_at + RETRY_S:
            raise _Pausing(self._errno, "a moment ago")
        try:
            fd = self._create()
        except OSError:
            if self._fd is None:
                raise
            return self._fd  # no descriptor or inode to be had: the old one may grow
        self._retire()
        self._fd, self._offset, self._old_at = fd, 0, now + self._segment_s
        self.sync.follow(fd)
        if not self._reserve.is_spent:
            self._reserve.hold()
        self._measure()
        return fd

    def _is_sealed(self, now: float, size: int) -> bool:
        """Whether the current segment, if anything is in it, has its size or its age."""
        if self._offset == 0:
            return False
        sooner_s = self._segment_s - SUSPECT_S if self.sync.has_failed else 0.0
        return self._offset + size > self._segment_bytes or now >= self._old_at - sooner_s

    def _refused(self, error: OSError) -> Loss:
        """What a refused write means; a full disk may have room a moment later."""
        if error.errno in _NO_SPACE:
            return Loss.DISK_FULL
        if not isinstance(error, _Pausing):  # else each call would begin the pause anew
            self._give_up(error.errno or errno.EIO)
        return Loss.IO_ERROR

    def _give_up(self, number: int) -> None:
        """Leave the segment as it is; a new one is tried after a moment."""
        self._retire()
        self._failed_at, self._errno = self._clock(), number

    def _create(self) -> int:
        while True:
            number = self._counters.segment + 1
            try:
                fd = os.open(slot.segment_path(self._path, number), _FLAGS, 0o600)
            except FileExistsError:
                self._counters.segment = number  # not ours: leave it alone
                continue
            self._counters.segment = number
            self._write_page()
            return fd

    def _retire(self) -> None:
        if self._fd is not None:
            self.sync.retire(self._fd)
            self._fd, self._offset, self._straight_until = None, 0, 0

    def _has_room(self, limit_bytes: int) -> bool:
        if self._used >= limit_bytes and self._clock() >= self._measured_at + MEASURE_S:
            self._measure()
        return self._used < limit_bytes

    def _is_scarce(self) -> bool:
        """Whether the disk was full and has no room for bodies yet."""
        if not self._reserve.is_spent:
            return False
        now = self._clock()
        if now < self._looked_at + RETRY_S:
            return True
        self._looked_at = now
        return not self._reserve.hold()

    def _measure(self) -> None:
        """Look how large the spool is: other writers fill it, the recorder empties it."""
        self._measured_at = self._clock()
        self._used = sum(
            slot.disk_bytes(self._root / str(number)) for number in slot.slots(self._root)
        )

    def _count_truncated(self, is_counted: bool) -> None:
        if not is_counted:
            self._counters.truncated += 1
            self._write_page()

    def _write_page(self) -> None:
        # Where it fails, the numbers stay in memory and the next write carries them.
        try:
            self._page.write(self._counters.counters())
        except OSError:
            return


def _encoded(noun: Start | AnswerHead | End) -> bytes | None:
    """The record's payload; None where a text in it has no UTF-8 form, or it is too large."""
    try:
        payload = noun.to_bytes()
    except TypeError:
        return None
    return payload if len(payload) <= PAYLOAD_BYTES_MAX else None
