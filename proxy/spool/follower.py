"""Follower: reads the segments of one slot in order and knows which calls wait there.

Of a call that is not settled only the positions of its records are held, eight bytes each; the
bytes are read when it is delivered. Nothing is read ahead of what is asked for, so a large backlog
costs no memory.

Rules
- A segment is final once a later one exists; only then is an unfinished tail torn. In the newest
  one it may be a record that is just being written.
- A call without END has crashed once its writer is gone: a later BOOT says so, or the slot's lock
  is free and everything has been read.
- Damage before the journal's place was counted already, sequences up to the journal's too; so what
  is read again after a restart is not counted again.
- A segment is deleted once no call with a record in it waits and a later one has been begun. What
  is not readable here, or of a newer version, is left where it is and not counted as lost.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from proxy.spool import slot
from proxy.spool.carry import carried, carried_keys, carried_path, carry
from proxy.spool.journal import Journal, State
from proxy.spool.load import Windows, segment_records
from proxy.spool.page import read_page
from proxy.spool.segment import VERSION, Found, Kind
from proxy.spool.segment_file import FOR_NOW, NOT_SOON, READ_TRIES_MAX, open_segment, walk
from proxy.spool.sockets import begins_socket
from proxy.spool.totals import Captured, Loss, id_ms
from proxy.spool.tracked import Tracked

CARRY_SEGMENTS = 3  # an open call this far behind is copied, so that segments can go
SCAN_BYTES_MAX = 64 * 1024 * 1024  # per call of `advance`


class _Segment:
    """What is known of a segment that was opened."""

    __slots__ = ("is_kept", "settled")

    def __init__(self) -> None:
        self.settled: list[bytes] = []  # calls that began here
        self.is_kept = False


class SlotFollower:
    """Raises OSError at construction only, where the slot's journal cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._journal = Journal(path)
        self._settled = self._journal.settled
        self._segments: dict[int, _Segment] = {}
        self._waiting: dict[bytes, Tracked] = {}  # in order of their STARTs
        self._open: dict[bytes, Tracked] = {}
        self._file: io.FileIO | None = None
        self._number = 0
        self._offset = 0
        self._damage_end = -1
        self._last_sequence = 0
        self._is_blind = False  # a segment was passed over: a gap behind it is no loss
        self._is_incomplete = False  # a segment, or a part of one, could not be read
        self._is_caught_up = False
        self._is_changed = False
        self._refusals = 0  # of the disk, at the place that is to be read next
        self.ready: deque[Tracked] = deque()  # ended or crashed, to be delivered
        self.news: dict[bytes, Tracked] = {}  # sockets of which there is something to deliver
        self._carried: set[int] = set()  # sequences of calls that were found in files of their own
        self._undeleted: set[bytes] = set()  # settled calls whose own file may still be there
        try:
            for key in carried_keys(path):
                self._load_carried(key)
        except OSError:
            self._journal.close()
            raise

    @property
    def path(self) -> Path:
        return self._path

    def advance(self, wanted: int) -> None:
        """Read on until `wanted` calls are ready or nothing is new. Never raises."""
        if not self._read_on(wanted):
            return
        self._forget_unmet()
        if not self._open:
            return
        candidates = list(self._open.values())
        captured = Captured.of(read_page(self._path / slot.CAPTURED) or ())
        if slot.is_held(self._path / slot.LOCK):
            return
        # The writer is gone; what it wrote since the last look is still to be read.
        if self._read_on(wanted):
            self._crashed(call for call in candidates if call.key in self._open)
            self._note_sequence(captured.sequence)

    def settle(self, calls: Iterable[Tracked], state: State, loss: Loss = Loss.DISCARDED) -> None:
        """Note what became of these calls, and delete the segments nobody needs any more."""
        found = [call for call in calls if self._waiting.pop(call.key, None) is not None]
        self._note_place()
        self._journal.append(state, (call.key for call in found), loss)
        for call in found:
            self._release(call)
        self._delete_segments()

    def flush(self) -> None:
        """Write counters that changed without a call being settled, and what is owed."""
        if self._is_changed or self._journal.is_behind:
            self._note_place()
            self._journal.flush()

    def close(self) -> None:
        self._note_place()
        self._journal.close()
        self._close_file()

    def _read_on(self, wanted: int) -> bool:
        """Whether everything there is has been read."""
        scanned_bytes = 0
        while len(self.ready) < wanted and scanned_bytes < SCAN_BYTES_MAX:
            try:
                numbers = slot.list_segments(self._path)
            except OSError:
                return False  # an empty directory looks otherwise
            later = next((n for n in numbers if n > self._number), None)
            if self._file is not None:
                before = self._offset
                if not self._scan(self._file, wanted, before + SCAN_BYTES_MAX):
                    return False
                scanned_bytes += self._offset - before
            if later is None:
                return True
            self._finish()
            if not self._begin(later):
                return False
        return False

    def _scan(self, file: io.FileIO, wanted: int, limit: int) -> bool:
        """Read the current segment to its present end; False where a limit came first."""
        try:
            for item in walk(file.fileno(), self._offset):
                if isinstance(item, Found):
                    self._take(item)
                else:
                    self._note_damage(item.offset, item.end)
                self._offset, self._refusals = item.end, 0
                if len(self.ready) >= wanted or self._offset >= limit:
                    return False
        except OSError as error:
            if self._is_to_be_tried_again(error):
                return False
            self._pass_over()  # what it does not give back may come back another day
        return True

    def _is_to_be_tried_again(self, error: OSError) -> bool:
        """Whether what could not be read may be readable in a moment."""
        if error.errno in FOR_NOW:
            return True
        self._refusals += 1
        return error.errno not in NOT_SOON and self._refusals < READ_TRIES_MAX

    def _begin(self, number: int) -> bool:
        """Open the next segment; False where that cannot be done now."""
        try:
            self._file = open_segment(self._path, number)
        except OSError as error:
            if self._is_to_be_tried_again(error):
                return False
            self._is_blind = self._is_incomplete = True
        else:
            self._segments[number] = _Segment()
        self._number, self._offset, self._damage_end = number, 0, -1
        self._refusals = 0
        self._delete_segments()
        self._carry_over()
        return True

    def _pass_over(self) -> None:
        """Something here cannot be read by this program, now: it is kept and nothing is lost."""
        self._is_blind = self._is_incomplete = True
        self._segments[self._number].is_kept = True

    def _finish(self) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            is_torn = os.fstat(self._file.fileno()).st_size > self._offset
            if is_torn and self._offset != self._damage_end and self._is_new(self._offset):
                self._settled.torn += 1
                self._is_changed = True
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take(self, item: Found) -> None:
        header = item.header
        if header.version > VERSION:
            self._pass_over()
            return
        if not item.is_good:
            self._note_damage(item.offset, item.end)
        match header.kind:
            case Kind.BOOT:
                self._booted(header.number)
            case Kind.START if item.is_good:
                self._begun(item)
            case Kind.REQUEST | Kind.HEAD | Kind.RESPONSE | Kind.END:
                self._continued(item)

    def _booted(self, sequence: int) -> None:
        """A new incarnation of the writer; what began later was carried and met before this."""
        for call in self._waiting.values():
            if call.sequence <= sequence:
                call.pins.add(self._number)  # whoever reads it again must meet this BOOT too
        self._crashed([call for call in self._open.values() if call.sequence <= sequence])
        self._note_sequence(sequence)

    def _begun(self, item: Found) -> None:
        key, sequence = item.header.key, item.header.number
        here = self._segments[self._number]
        self._note_sequence(sequence - 1)
        self._settled.sequence = max(self._settled.sequence, sequence)
        if key in self._journal.acknowledged:
            if key not in self._undeleted:  # else its file would bring it again
                here.settled.append(key)
        elif (call := self._waiting.get(key)) is not None:
            call.first_segment = self._number  # it was carried from here
        else:
            if sequence <= self._last_sequence and self._is_new(item.offset):
                self._settled.found += 1
            call = self._waiting[key] = self._open[key] = Tracked(key, sequence, self._number)
            call.add(self._number, item)
            if begins_socket(item.payload):
                call.is_socket = True
                self.news[key] = call
        self._last_sequence = max(self._last_sequence, sequence)

    def _continued(self, item: Found) -> None:
        call = self._open.get(item.header.key)
        if call is None:
            return  # settled, or its START cannot be read: then it is counted as damaged
        call.add(self._number, item)
        if call.is_socket:
            self.news[call.key] = call
        if item.header.kind == Kind.END:
            self._over(call)

    def _crashed(self, calls: Iterable[Tracked]) -> None:
        for call in calls:
            self._over(call)

    def _over(self, call: Tracked) -> None:
        """The call has ended or crashed."""
        del self._open[call.key]
        call.is_over = True
        if call.is_socket:
            self.news[call.key] = call
        else:
            self.ready.append(call)

    def _note_sequence(self, sequence: int) -> None:
        """All calls up to `sequence` came before this place: those not found are damaged."""
        missing = range(self._settled.sequence + 1, sequence + 1)
        if missing:
            self._settled.sequence = sequence
            if not self._is_blind:
                there = sum(number in missing for number in self._carried)
                self._settled.lost[Loss.DAMAGED] += len(missing) - there
                self._is_changed = True
        self._is_blind = False

    def _forget_unmet(self) -> None:
        """Once all is read: drop from the journal whose segments an earlier reader deleted."""
        if self._is_caught_up:
            return
        self._is_caught_up = True
        if not self._is_incomplete:
            settled = (key for part in self._segments.values() for key in part.settled)
            self._journal.retain([*settled, *carried_keys(self._path), *self._undeleted])
            self._count_vanished()

    def _count_vanished(self) -> None:
        """Calls that an earlier reader had found, was not done with, and that rotted since."""
        found = self._settled.sequence + self._settled.found
        done = self._settled.stored + self._settled.quarantined + sum(self._settled.lost.values())
        vanished = found - done - len(self._waiting)
        if vanished > 0:
            self._settled.lost[Loss.DAMAGED] += vanished
            self._is_changed = True
        elif vanished < 0:
            # A power cut took from the journal what the page had counted: that comes again.
            self._settled.found -= vanished
            self._is_changed = True

    def _note_damage(self, offset: int, end: int) -> None:
        if offset != self._damage_end and self._is_new(offset):
            self._settled.damaged += 1
            self._is_changed = True
        self._damage_end = end

    def _is_new(self, offset: int) -> bool:
        return (self._number, offset) >= (self._settled.segment, self._settled.offset)

    def _note_place(self) -> None:
        if self._is_new(self._offset):
            self._settled.segment, self._settled.offset = self._number, self._offset
        oldest = next(iter(self._waiting), None)
        self._settled.oldest_ms = id_ms(oldest) if oldest else 0
        self._is_changed = False

    def _load_carried(self, key: bytes) -> None:
        """Take up a call that an earlier reader has carried. Raises OSError: not now."""
        call = Tracked(key, 0, 0)
        call.has_file = True
        try:
            for item in carried(self._path, key):
                if item.header.kind == Kind.START:
                    call.sequence = item.header.number
                    call.is_socket = begins_socket(item.payload)
                elif not call.sequence:
                    self._settled.lost[Loss.DAMAGED] += 1
                    self._is_changed = True
                    break
                call.meet(item)
                call.carried_bytes = item.end
        except OSError as error:
            if error.errno in FOR_NOW:
                raise
            if error.errno not in NOT_SOON:
                self._is_incomplete = True
                return  # the file stays for a reader that gets it back
        if call.carried_bytes and key not in self._journal.acknowledged:
            self._waiting[key] = self._open[key] = call
            self._carried.add(call.sequence)
            if call.is_socket:
                self.news[key] = call
        elif not self._drop_carried(key):
            self._undeleted.add(key)

    def _carry_over(self) -> None:
        """Let the segments go that are held only by calls which stay open long."""
        behind = [
            call
            for call in self._open.values()
            if call.positions and self._number - (call.positions[0] >> 32) >= CARRY_SEGMENTS
        ]
        for call in behind:
            call.has_file = True
            try:
                with Windows(self._path) as windows:
                    copied = segment_records(windows, call)
                    call.carry(carry(self._path, call.key, call.carried_bytes, copied))
            except OSError:
                continue  # no room: the segments stay a little longer
        if behind:
            # The sequences in those segments must not look like a gap to the next reader.
            self._note_place()
            self._journal.flush()

    def _drop_carried(self, key: bytes) -> bool:
        """Whether the file is gone. Where it stays, the journal has to go on knowing the call."""
        try:
            carried_path(self._path, key).unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _release(self, call: Tracked) -> None:
        is_start_there = call.first_segment in self._segments
        if call.has_file:
            self._journal.secure([] if is_start_there else [call.key])
            if not self._drop_carried(call.key):
                self._undeleted.add(call.key)
                return
        if is_start_there:
            self._segments[call.first_segment].settled.append(call.key)
        else:
            self._journal.forget([call.key])

    def _delete_segments(self) -> None:
        if not any(number < self._number for number in self._segments):
            return
        pinned = set[int]().union(*(call.pins for call in self._waiting.values()))
        for number, segment in list(self._segments.items()):
            if number >= self._number or segment.is_kept or number in pinned:
                continue
            self._journal.secure(frozenset(segment.settled))
            try:
                slot.segment_path(self._path, number).unlink(missing_ok=True)
            except OSError:
                continue  # tried again at the next settlement
            self._journal.forget(segment.settled)
            del self._segments[number]
