"""A disk that stands still: calls go on, in order, and what memory cannot hold is counted."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, get_ident
from types import SimpleNamespace

import pytest

from proxy.exchange import End, Outcome
from proxy.spool.stall import STALL_S, StallGuard
from proxy.spool.sync import SyncThread

from .samples import Clock, a_start, a_writer, an_end, body, recorded, totals

PATIENCE_S = 10.0


class Disk:
    """`os.writev` as the guard's clock sees it: quick, slow, or stuck until `go` is set."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cost_s = 0.0
        self.busy_s = 0.0  # of a processor, before it is taken
        self.go = Event()
        self.go.set()
        self.threads: list[int] = []
        self.refused = b""
        self._real = os.writev

    def writev(self, fd: int, parts: tuple[bytes, bytes]) -> int:
        assert self.go.wait(PATIENCE_S)
        busy_until = time.monotonic() + self.busy_s
        while time.monotonic() < busy_until:
            pass
        self.clock.now += self.cost_s
        self.threads.append(get_ident())
        if parts[1] == self.refused:
            raise OSError(28, "No space left on device")
        return self._real(fd, parts)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(os, "writev", disk.writev)
    yield disk
    disk.go.set()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def a_guard(root: Path, disk: Disk, **settings: int) -> StallGuard:
    return StallGuard(a_writer(root, clock=disk.clock), clock=disk.clock, **settings)


def stall(guard: StallGuard, disk: Disk) -> None:
    """One slow append; the next ones hang."""
    disk.cost_s = 1.0
    assert guard.start(a_start())
    disk.cost_s = 0.0
    disk.go.clear()
    assert guard.is_stalled


def test_on_a_quick_disk_the_caller_appends(tmp_path: Path, disk: Disk) -> None:
    guard = a_guard(tmp_path, disk)
    start = a_start()
    assert guard.start(start)
    assert guard.response(start.id, 1, b"yes")
    assert guard.end(start.id, an_end())
    assert set(disk.threads) == {get_ident()}
    assert not guard.is_stalled
    guard.close()


def test_calls_go_on_in_order_while_the_disk_stands_still(tmp_path: Path, disk: Disk) -> None:
    guard = a_guard(tmp_path, disk)
    stall(guard, disk)
    calls = [a_start() for _ in range(20)]
    began = time.monotonic()
    for call in calls:
        assert guard.start(call)
        assert guard.request(call.id, 1, b"ask")
        assert guard.response(call.id, 2, b"yes")
        assert guard.end(call.id, an_end())
    assert time.monotonic() - began < PATIENCE_S / 2  # not once per append: the disk never moved
    disk.go.set()
    guard.close()
    found = [d for d in recorded(tmp_path) if d.exchange.end]
    assert [d.exchange.start.id for d in found] == [call.id for call in calls]
    assert {body(d.exchange) for d in found} == {(b"ask", b"yes")}
    assert get_ident() not in disk.threads[-len(calls) * 4 :]
    assert totals(tmp_path).waiting == 0


def test_appends_return_to_the_caller_once_the_disk_is_quick(tmp_path: Path, disk: Disk) -> None:
    guard = a_guard(tmp_path, disk)
    stall(guard, disk)
    disk.go.set()
    until(lambda: not guard.is_stalled)
    assert guard.start(a_start())
    assert disk.threads[-1] == get_ident()
    guard.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a thread waits for")
def test_a_busy_machine_is_no_disk_that_stands_still(tmp_path: Path, disk: Disk) -> None:
    """In the thread too, an append on a disk that works is done before its call goes on."""
    guard = a_guard(tmp_path, disk)
    stall(guard, disk)
    disk.go.set()
    disk.busy_s = disk.cost_s = 4 * STALL_S
    start = a_start()
    assert guard.start(start)
    assert guard.is_stalled
    before = len(disk.threads)
    assert guard.response(start.id, 1, b"seen")
    assert len(disk.threads) == before + 1
    assert disk.threads[-1] != get_ident()
    guard.close()


def test_a_disk_that_moves_again_is_caught_up_with(tmp_path: Path, disk: Disk) -> None:
    """Nobody waits while it stands still; then calls make way for the thread, busy as they are."""
    guard = a_guard(tmp_path, disk)
    stall(guard, disk)
    start = a_start()
    assert guard.start(start)
    for at_us in range(2000):
        assert guard.response(start.id, at_us, b"piece")
    before = len(disk.threads)
    disk.go.set()
    appends = 0
    while guard.is_stalled:
        assert guard.response(start.id, 9, b"more")
        appends += 1
    assert len(disk.threads) >= before + 2000
    assert appends < 100_000, "the thread fell ever further behind"
    guard.close()


def test_what_memory_cannot_hold_is_counted(tmp_path: Path, disk: Disk) -> None:
    guard = a_guard(tmp_path, disk, waiting_bytes_max=10_000)
    stall(guard, disk)
    kept = a_start()
    assert guard.start(kept)
    assert guard.request(kept.id, 1, b"ask")
    assert not guard.response(kept.id, 2, bytes(20_000))
    begun = 0
    while guard.start(a_start()):
        begun += 1
    assert not guard.start(a_start())
    assert guard.end(kept.id, an_end())
    disk.go.set()
    guard.close()
    counted = totals(tmp_path)
    assert counted.lost["stalled"] == 2 == sum(counted.lost.values())
    assert counted.truncated == 1
    assert counted.captured == 2 + begun + 2
    (delivery,) = [d for d in recorded(tmp_path) if d.exchange.start.id == kept.id]
    assert body(delivery.exchange) == (b"ask", b"")
    assert delivery.exchange.end == an_end()


def test_a_body_that_the_disk_refuses_later_is_not_said_to_be_kept(
    tmp_path: Path, disk: Disk
) -> None:
    guard = a_guard(tmp_path, disk)
    stall(guard, disk)
    start = a_start()
    assert guard.start(start)
    assert guard.response(start.id, 1, b"kept")
    disk.refused = b"refused"
    assert guard.response(start.id, 2, disk.refused)
    assert guard.end(start.id, End(3, Outcome.COMPLETE, response_bytes=11, response_kept=11))
    disk.go.set()
    guard.close()
    ends = {d.exchange.start.id: d.exchange.end for d in recorded(tmp_path)}
    ended = ends[start.id]
    assert ended is not None
    assert (ended.response_bytes, ended.response_kept) == (11, 4)


def test_a_sync_that_hangs_moves_appends_before_one_hangs(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, real = Event(), os.fdatasync

    def fdatasync(fd: int) -> None:
        assert go.wait(PATIENCE_S)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    guard = a_guard(tmp_path, disk)
    until(lambda: guard._writer.is_disk_busy)
    assert guard.start(a_start())
    assert guard.is_stalled
    assert disk.threads[-1] != get_ident()
    go.set()
    until(lambda: not guard.is_stalled)
    guard.close()


@pytest.mark.parametrize(
    ("unsynced_bytes", "allowed_s"), [(0, 0.05), (50_000_000, 1.05), (500_000_000, 10.05)]
)
def test_a_sync_may_take_as_long_as_a_slow_disk_needs_for_what_was_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unsynced_bytes: int, allowed_s: float
) -> None:
    go, began, clock = Event(), Event(), Clock()

    def fdatasync(fd: int) -> None:
        began.set()
        assert go.wait(PATIENCE_S)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr("proxy.spool.sync.time", SimpleNamespace(monotonic=clock))
    fd = os.open(tmp_path / "1.seg", os.O_WRONLY | os.O_CREAT)
    os.ftruncate(fd, unsynced_bytes)
    thread = SyncThread(tmp_path, 0.0)
    thread.follow(fd)
    assert began.wait(PATIENCE_S)
    clock.now += allowed_s - 0.01
    assert not thread.is_busy
    clock.now += 0.02
    assert thread.is_busy
    go.set()
    thread.close()
    os.close(fd)


def test_a_disk_that_does_not_tell_a_size_does_not_end_syncing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One behind a network may refuse that; whoever waits for a sync hears of it still."""

    def refused(fd: int) -> None:
        raise OSError(errno.ESTALE, "stale file handle")

    fd = os.open(tmp_path / "1.seg", os.O_WRONLY | os.O_CREAT)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", refused)
        thread, told = SyncThread(tmp_path, 0.0), Event()
        thread.follow(fd)
        thread.call_when_synced(told.set)
        assert told.wait(PATIENCE_S)
        thread.close()
    os.close(fd)
