"""Journal: what the recorder has dealt with in one slot, so that nothing is delivered again.

An append-only file of ACK records (format: `segment`), one per batch: the recorder's counters after
it (a packed page, `number` bytes long), then 17 bytes per call: its state and its id. Counters and
ids stand in one record, so they cannot contradict each other; the page `settled` is a copy
for other processes, and keeps the count when the disk is too full for the journal.

A torn tail is cut. The file is written anew (beside, then renamed) when it has doubled; ids whose
START lies in a deleted segment are left out, since nothing of theirs can be delivered any more.
Those of quarantined calls stay: who stores one later has to know that it is of this slot. More ids
than one record holds are written in several, only anew: with the rename all of them are there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from proxy.spool import slot
from proxy.spool.page import Page, pack, read_page, unpack
from proxy.spool.segment import PAYLOAD_BYTES_MAX, VERSION, Damage, Kind, header_bytes
from proxy.spool.segment_file import walk
from proxy.spool.totals import Loss, Settled

ROTATE_BYTES_MIN = 256 * 1024
_NOBODY = bytes(16)
_ENTRY_BYTES = 17
_ENTRIES_MAX = PAYLOAD_BYTES_MAX // _ENTRY_BYTES // 2  # of a record, which holds the counters too


class State(IntEnum):
    """What became of a call."""

    STORED = 1
    QUARANTINED = 2
    LOST = 3


class _Owed(NamedTuple):
    """An entry that is not written yet."""

    state: State
    key: bytes
    loss: Loss


class Journal:
    """The journal of the slot at `path`, open for appending. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path / slot.ACKS
        self.settled = last_settled(path)
        self.acknowledged: set[bytes] = set()
        self._set_aside: set[bytes] = set()
        self._end = self._rotate_at = 0
        self._owed: list[_Owed] = []
        self._fd = _open(self._path)
        try:
            self._page = Page(path / slot.SETTLED)
            self._load()
        except OSError:
            os.close(self._fd)
            raise

    @property
    def is_behind(self) -> bool:
        """Whether something could not be written yet."""
        return bool(self._owed)

    def append(self, state: State, keys: Iterable[bytes], loss: Loss = Loss.DISCARDED) -> None:
        """Count and note what became of these calls. What the disk refuses is tried again."""
        for key in keys:
            entry = _Owed(state, key, loss)
            self._owed.append(entry)
            self.acknowledged.add(key)
            if state is State.QUARANTINED:
                self._set_aside.add(key)
            _count(self.settled, entry, 1)
        self.flush()

    def flush(self) -> None:
        """Write what is owed and the counters."""
        self.settled.revision += 1
        with contextlib.suppress(OSError):
            if not self._is_rotated():
                self._append(_record(self.settled, self._owed))
            self._owed.clear()
            self._write_page(self.settled)

    def forget(self, keys: Iterable[bytes]) -> None:
        """The segment that held these calls' STARTs is gone."""
        self.acknowledged.difference_update(keys)
        gone = set(keys)
        self._owed = [entry for entry in self._owed if entry.key not in gone]

    def retain(self, keys: Iterable[bytes]) -> None:
        """Of what was acknowledged only these calls can still be met.

        So it is known how long the journal has to be, which its length at the start does not tell:
        a recorder that dies again and again before a renewal would have it double each time.
        """
        self.acknowledged.intersection_update(keys)
        needed = _ENTRY_BYTES * len(self.acknowledged | self._set_aside)
        self._rotate_at = min(self._rotate_at, max(ROTATE_BYTES_MIN, 2 * needed))

    def secure(self, gone: Container[bytes]) -> None:
        """Before the STARTs of `gone` are deleted: make what is said of them survive a power cut.

        On a full disk only deleting makes room for the journal, so then the page has to do. Of what
        is owed it counts these calls only: the others would come, and be counted, again.
        """
        sure = replace(self.settled)
        sure.lost = dict(self.settled.lost)
        for entry in self._owed:
            if entry.key not in gone:
                _count(sure, entry, -1)
        self._write_page(sure)
        with contextlib.suppress(OSError):
            os.fdatasync(self._fd)

    def close(self) -> None:
        self.flush()
        os.close(self._fd)
        self._page.close()

    def _load(self) -> None:
        self._end, is_damaged = 0, False
        for payload, number, end in _acks(self._fd):
            if payload is None:
                is_damaged = True
            else:
                self.acknowledged.update(_keys(payload, number))
                self._set_aside.update(_keys(payload, number, State.QUARANTINED))
            self._end = end
        self._rotate_at = max(ROTATE_BYTES_MIN, 2 * self._end)
        if is_damaged:
            self._rotate_at = 0
        elif os.fstat(self._fd).st_size > self._end:
            os.ftruncate(self._fd, self._end)
        self._write_page(self.settled)

    def _append(self, record: bytes) -> None:
        written = 0
        try:
            written = os.pwrite(self._fd, record, self._end)
        finally:
            if written < len(record):
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._end)
        if written < len(record):
            raise OSError("the journal was written short")
        self._end += written

    def _is_rotated(self) -> bool:
        """Whether the journal was due to be written anew, and has been. Else it may grow."""
        is_long = len(self._owed) > _ENTRIES_MAX  # for one record, and none is torn from another
        if self._end < self._rotate_at and not is_long:
            return False
        try:
            self._rotate()
        except OSError:
            if is_long:
                raise
            return False
        return True

    def _rotate(self) -> None:
        beside = self._path.with_suffix(".new")
        others = self.acknowledged - self._set_aside
        known = [_Owed(State.QUARANTINED, key, Loss.DISCARDED) for key in self._set_aside]
        known += [_Owed(State.STORED, key, Loss.DISCARDED) for key in others]
        record = b"".join(
            _record(self.settled, known[at : at + _ENTRIES_MAX])
            for at in range(0, len(known) or 1, _ENTRIES_MAX)
        )
        beside.unlink(missing_ok=True)
        fd = _open(beside)
        try:
            if os.write(fd, record) != len(record):
                raise OSError("the journal was written short")
            os.fdatasync(fd)
            os.rename(beside, self._path)
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._end = fd, len(record)
        self._rotate_at = max(ROTATE_BYTES_MIN, 2 * self._end)

    def _write_page(self, settled: Settled) -> None:
        with contextlib.suppress(OSError):
            self._page.write(settled.counters())


def _count(settled: Settled, entry: _Owed, by: int) -> None:
    match entry.state:
        case State.STORED:
            settled.stored += by
        case State.QUARANTINED:
            settled.quarantined += by
        case State.LOST:
            settled.lost[entry.loss] += by


def last_settled(path: Path) -> Settled:
    """The recorder's counters, from journal and page: the newer of both. Never raises."""
    newest = Settled.of(read_page(path / slot.SETTLED) or ())
    with contextlib.suppress(OSError):
        fd = open_to_read(path)
        try:
            for payload, number, _ in _acks(fd):
                counters = unpack(payload[:number]) if payload is not None else None
                if counters and counters[0] > newest.revision:
                    newest = Settled.of(counters)
        finally:
            os.close(fd)
    return newest


def acknowledged(path: Path) -> set[bytes]:
    """The ids in the slot's journal. Never raises."""
    keys: set[bytes] = set()
    with contextlib.suppress(OSError):
        fd = open_to_read(path)
        try:
            for payload, number, _ in _acks(fd):
                if payload is not None:
                    keys.update(_keys(payload, number))
        finally:
            os.close(fd)
    return keys


def set_aside(path: Path) -> set[bytes]:
    """The ids of the slot's calls that were ever quarantined. Raises OSError."""
    try:
        fd = open_to_read(path)
    except FileNotFoundError:
        return set()
    try:
        return set_aside_behind(fd, 0)[0]
    finally:
        os.close(fd)


def open_to_read(path: Path) -> int:
    """The slot's journal. Raises OSError."""
    return os.open(path / slot.ACKS, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def set_aside_behind(fd: int, offset: int) -> tuple[set[bytes], int]:
    """The ids of quarantined calls in an open journal from there, and where to go on."""
    keys: set[bytes] = set()
    for payload, number, end in _acks(fd, offset):
        if payload is not None:
            keys.update(_keys(payload, number, State.QUARANTINED))
            offset = end
    return keys, offset


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _acks(fd: int, offset: int = 0) -> Iterator[tuple[bytes | None, int, int]]:
    """Each ACK's payload (None: damaged), the length of its counters, and where it ends."""
    for item in walk(fd, offset):
        if isinstance(item, Damage) or not item.is_good:
            yield None, 0, item.end
        elif item.header.kind == Kind.ACK and item.header.version == VERSION:
            yield bytes(item.payload), item.header.number, item.end
        else:
            yield b"", 0, item.end  # of a newer version: left in place


def _keys(payload: bytes, start: int, state: State | None = None) -> Iterator[bytes]:
    """The ids behind the counters: all, or those of that state."""
    return (
        payload[at + 1 : at + _ENTRY_BYTES]
        for at in range(start, len(payload), _ENTRY_BYTES)
        if state is None or payload[at] == state
    )


def _record(settled: Settled, entries: Iterable[_Owed]) -> bytes:
    counters = pack(settled.counters())
    payload = counters + b"".join(bytes((entry.state,)) + entry.key for entry in entries)
    return header_bytes(Kind.ACK, _NOBODY, payload, number=len(counters)) + payload
