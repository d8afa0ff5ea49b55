"""A full disk: bodies go first, heads and ends live on the reserve, then calls are counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.exchange import AnswerHead
from proxy.spool.reserve import Reserve
from proxy.spool.writer import RETRY_S, SpoolWriter

from .samples import Clock, a_start, a_writer, an_end, body, ids, recorded, totals, write_call

SIZE = 64 * 1024


class FullDisk:
    """`os.writev` on a disk without room but for what the reserve gives away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reserve: Path) -> None:
        self.room = 0
        self._reserve = reserve
        self._real, self._truncate = os.writev, os.ftruncate
        monkeypatch.setattr(os, "writev", self.writev)
        monkeypatch.setattr(os, "ftruncate", self.ftruncate)

    def writev(self, fd: int, parts: tuple[bytes, bytes]) -> int:
        size = sum(map(len, parts))
        if size > self.room:
            raise OSError(28, "No space left on device")
        self.room -= size
        return self._real(fd, parts)

    def ftruncate(self, fd: int, length: int) -> None:
        if os.fstat(fd).st_ino == self._reserve.stat().st_ino:
            self.room += os.fstat(fd).st_size - length
        self._truncate(fd, length)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def writer(tmp_path: Path, clock: Clock) -> SpoolWriter:
    return a_writer(tmp_path, max_bytes=64 * SIZE, clock=clock)


def test_on_a_full_disk_calls_keep_their_heads_and_ends(
    tmp_path: Path, writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = a_start()
    assert writer.start(before)
    with monkeypatch.context() as patch:
        disk = FullDisk(patch, tmp_path / "0" / "reserve")
        assert not writer.response(before.id, 1, b"no room")
        assert disk.room == SIZE
        assert writer.is_full
        assert writer.head(before.id, AnswerHead(2, 200))
        assert writer.end(before.id, an_end())
        during = a_start()
        assert writer.start(during)
        assert not writer.request(during.id, 1, b"small")
        assert writer.head(during.id, AnswerHead(2, 200))
        assert writer.end(during.id, an_end())
        last, begun = a_start(), 0
        while writer.start(last):
            assert writer.end(last.id, an_end())
            last, begun = a_start(), begun + 1
        assert begun > 50
    writer.close()
    found = recorded(tmp_path)
    assert len(found) == begun + 2
    assert {body(delivery.exchange) for delivery in found} == {(b"", b"")}
    assert all(delivery.exchange.end == an_end() for delivery in found)
    counted = totals(tmp_path)
    assert counted.lost["disk_full"] == 1 == sum(counted.lost.values())
    assert counted.truncated == 2


def test_bodies_are_kept_again_once_there_is_room(
    tmp_path: Path, writer: SpoolWriter, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = a_start()
    assert writer.start(start)
    with monkeypatch.context() as patch:
        FullDisk(patch, tmp_path / "0" / "reserve")
        assert not writer.response(start.id, 1, b"no room")
    assert writer.is_full
    clock.now += RETRY_S
    assert not writer.is_full
    kept = write_call(writer)
    assert (tmp_path / "0" / "reserve").stat().st_size == SIZE
    writer.close()
    bodies = {d.exchange.start.id: body(d.exchange) for d in recorded(tmp_path)}
    assert bodies == {start.id: (b"", b""), kept: (b"ask", b"yessir")}


def test_a_disk_with_little_room_gives_no_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstatvfs

    def little(fd: int) -> os.statvfs_result:
        values = list(real(fd))
        values[4] = 1  # f_bavail
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "fstatvfs", little)
    reserve = Reserve(tmp_path / "reserve", SIZE)
    assert not reserve.hold()
    assert not reserve.release()
    assert not reserve.is_spent
    reserve.close()


@pytest.mark.parametrize("hurt", ["directory", "fill"])
def test_without_a_reserve_calls_are_recorded_all_the_same(
    tmp_path: Path, hurt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if hurt == "directory":
        (tmp_path / "0" / "reserve").mkdir(parents=True)
    else:
        monkeypatch.setattr(os, "posix_fallocate", refused)
    writer = a_writer(tmp_path)
    kept = write_call(writer)
    writer.close()
    assert ids(recorded(tmp_path)) == [kept]


def test_a_killed_writers_reserve_is_the_next_ones(tmp_path: Path) -> None:
    first = Reserve(tmp_path / "reserve", SIZE)
    assert first.is_held
    second = Reserve(tmp_path / "reserve", SIZE)
    assert second.is_held
    assert (tmp_path / "reserve").stat().st_size == SIZE
    second.close()
    assert (tmp_path / "reserve").stat().st_size == 0
    first.close()
