"""Calls that stay open long do not hold the disk, and lose nothing for it."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from proxy.spool.carry import carried_path
from proxy.spool.reader import SpoolReader
from proxy.spool.verify import verify
from proxy.spool.writer import SpoolWriter

from .samples import (
    ROOM,
    a_start,
    a_writer,
    an_end,
    ids,
    read_all,
    recorded,
    segment_files,
    totals,
    write_call,
)

PIECES = 12


def long_call(writer: SpoolWriter, reader: SpoolReader) -> UUID:
    """A call that stays open while many others come and go."""
    start = a_start()
    assert writer.start(start)
    for n in range(PIECES):
        assert writer.response(start.id, n, bytes([n]) * 300)
        write_call(writer)
        read_all(reader)
    return start.id


def whole_answer() -> bytes:
    return b"".join(bytes([n]) * 300 for n in range(PIECES))


def test_an_open_call_holds_a_few_segments_only(tmp_path: Path) -> None:
    writer, reader = a_writer(tmp_path, segment_bytes=600), SpoolReader(tmp_path)
    id = long_call(writer, reader)
    assert len(segment_files(tmp_path)) < 10
    assert carried_path(tmp_path / "0", id.bytes).exists()
    assert [check.is_consistent for check in verify(tmp_path)] == [True]
    writer.end(id, an_end())
    (delivery,) = read_all(reader)
    assert delivery.exchange.response_body == whole_answer()
    assert not delivery.is_damaged
    assert not carried_path(tmp_path / "0", id.bytes).exists()
    reader.close()
    writer.close()
    assert totals(tmp_path).waiting == 0


@pytest.mark.parametrize("is_ended", [False, True])
def test_the_next_reader_takes_a_carried_call_up(tmp_path: Path, is_ended: bool) -> None:
    writer, reader = a_writer(tmp_path, segment_bytes=600), SpoolReader(tmp_path)
    id = long_call(writer, reader)
    reader.close()
    assert recorded(tmp_path) == []
    if is_ended:
        writer.end(id, an_end())
    writer.close()
    (delivery,) = recorded(tmp_path)
    assert delivery.exchange.start.id == id
    assert delivery.exchange.response_body == whole_answer()
    assert (delivery.exchange.end is not None) == is_ended
    assert not delivery.is_damaged
    assert recorded(tmp_path) == []
    assert (totals(tmp_path).waiting, sum(totals(tmp_path).lost.values())) == (0, 0)


@pytest.mark.parametrize("step", ["begun", "half", "synced", "settled"])
def test_a_reader_that_dies_while_carrying_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    real = os.pwrite

    def killed(*_: object) -> None:
        raise Killed

    def half(fd: int, data: bytes, offset: int) -> int:
        if os.readlink(f"/dev/fd/{fd}").endswith(".call"):
            real(fd, data[:-1], offset)
            raise Killed
        return real(fd, data, offset)

    writer, reader = a_writer(tmp_path, segment_bytes=600), SpoolReader(tmp_path)
    place = {
        "begun": "proxy.spool.follower.carry",
        "half": "os.pwrite",
        "synced": "proxy.spool.journal.Journal.flush",
        "settled": "proxy.spool.follower.SlotFollower._drop_carried",
    }[step]
    if step == "settled":
        id = long_call(writer, reader)
        writer.end(id, an_end())
    else:
        start = a_start()
        id = start.id
        writer.start(start)
        for n in range(PIECES):
            writer.response(id, n, bytes([n]) * 300)
    with monkeypatch.context() as patch:
        patch.setattr(place, half if step == "half" else killed)
        with pytest.raises(Killed):
            read_all(reader)
    for follower in reader._followers.values():
        follower._close_file()
    os.close(reader._lock)
    if step != "settled":
        writer.end(id, an_end())
    found = recorded(tmp_path)
    assert ids(found) == ([] if step == "settled" else [id])
    assert all(delivery.exchange.response_body == whole_answer() for delivery in found)
    assert not any(delivery.is_damaged for delivery in found)
    assert (totals(tmp_path).waiting, sum(totals(tmp_path).lost.values())) == (0, 0)
    assert list((tmp_path / "0").glob("*.call")) == []
    writer.close()


@pytest.mark.parametrize("taken", range(1, 5))
@pytest.mark.parametrize("is_carried", [False, True])
def test_what_a_failed_carrying_leaves_is_no_second_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int, is_carried: bool
) -> None:
    real = os.pwrite
    room = ROOM if is_carried else taken

    def small(fd: int, data: bytes, offset: int) -> int:
        nonlocal room
        if os.readlink(f"/dev/fd/{fd}").endswith(".call"):
            if not room:
                raise OSError(28, "No space left on device")
            room -= 1
        return real(fd, data, offset)

    writer, reader = a_writer(tmp_path, segment_bytes=600), SpoolReader(tmp_path)
    start = a_start()
    assert writer.start(start)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", small)
        for n in range(PIECES):
            if is_carried and n == PIECES // 2:
                room = taken
            writer.response(start.id, n, bytes([n]) * 300)
            read_all(reader)
        writer.end(start.id, an_end())
        (delivery,) = read_all(reader)
    assert delivery.exchange.response_body == whole_answer()
    assert not delivery.is_damaged
    assert list((tmp_path / "0").glob("*.call")) == []
    reader.close()
    writer.close()
    assert recorded(tmp_path) == []
    assert (totals(tmp_path).stored, totals(tmp_path).waiting) == (1, 0)


def test_on_a_full_disk_the_segments_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    writer, reader = a_writer(tmp_path, segment_bytes=600), SpoolReader(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("proxy.spool.follower.carry", full)
        id = long_call(writer, reader)
    assert len(segment_files(tmp_path)) > PIECES
    writer.end(id, an_end())
    (delivery,) = read_all(reader)
    assert delivery.exchange.response_body == whole_answer()
    assert len(segment_files(tmp_path)) == 1
    reader.close()
    writer.close()


def test_what_was_settled_on_a_full_disk_is_settled_after_the_journals_renewal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("proxy.spool.journal.ROTATE_BYTES_MIN", 300)
    writer = a_writer(tmp_path, segment_bytes=600)
    start = a_start()
    assert writer.start(start)
    others = [write_call(writer) for _ in range(PIECES)]
    writer.end(start.id, an_end())
    reader = SpoolReader(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("proxy.spool.follower.carry", full)
        patch.setattr(os, "unlink", full)
        found = ids(read_all(reader, size=1))
    assert found == [*others, start.id]
    reader.close()
    writer.close()
    assert recorded(tmp_path) == []
    assert totals(tmp_path).stored == PIECES + 1


def test_what_was_settled_stays_settled_while_its_file_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.unlink

    def stubborn(path: Path, **more: int) -> None:
        if str(path).endswith(".call"):
            raise OSError(1, "Operation not permitted")
        real(path, **more)

    monkeypatch.setattr("proxy.spool.journal.ROTATE_BYTES_MIN", 300)
    monkeypatch.setattr(os, "unlink", stubborn)
    writer = a_writer(tmp_path, segment_bytes=1500)
    start = a_start()
    assert writer.start(start)
    write_call(writer)  # in the same segment, and not settled for long
    reader = SpoolReader(tmp_path)
    (waits,) = reader.read(1, ROOM)
    for _ in range(PIECES):
        write_call(writer)
    reader.acknowledge(reader.read(100, ROOM))
    writer.end(start.id, an_end())
    reader.acknowledge(reader.read(100, ROOM))
    reader.close()
    assert carried_path(tmp_path / "0", start.id.bytes).exists()
    reader = SpoolReader(tmp_path)
    assert ids(read_all(reader)) == [waits.id]
    for _ in range(PIECES):  # until the journal is written anew
        write_call(writer)
        read_all(reader)
    reader.close()
    assert recorded(tmp_path) == []
    writer.close()
    assert recorded(tmp_path) == []
    assert totals(tmp_path).stored == 2 * PIECES + 2


def test_a_record_carried_short_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def short(fd: int, data: bytes, offset: int) -> int:
        is_call = os.readlink(f"/dev/fd/{fd}").endswith(".call")
        return real(fd, data[:-1] if is_call else data, offset)

    writer, reader = a_writer(tmp_path, segment_bytes=600), SpoolReader(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        id = long_call(writer, reader)
    writer.end(id, an_end())
    (delivery,) = read_all(reader)
    assert delivery.exchange.response_body == whole_answer()
    assert not delivery.is_damaged
    reader.close()
    writer.close()


def test_damage_in_a_carried_call_marks_it(tmp_path: Path) -> None:
    writer, reader = a_writer(tmp_path, segment_bytes=600), SpoolReader(tmp_path)
    id = long_call(writer, reader)
    reader.close()
    path = carried_path(tmp_path / "0", id.bytes)
    hurt = bytearray(path.read_bytes())
    hurt[len(hurt) // 2] ^= 1
    path.write_bytes(hurt)
    writer.end(id, an_end())
    (delivery,) = recorded(tmp_path)
    assert delivery.is_damaged
    assert len(delivery.exchange.response_body) == 300 * (PIECES - 1)
    writer.close()


def test_a_carried_call_whose_segment_rots_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the disk had room for its file, and none for the journal to say how far it got."""
    real = os.pwrite

    def full_for_the_journal(fd: int, data: bytes, offset: int) -> int:
        if os.readlink(f"/dev/fd/{fd}").endswith("/acks"):
            raise OSError(28, "No space left on device")
        return real(fd, data, offset)

    writer, reader = a_writer(tmp_path, segment_bytes=1), SpoolReader(tmp_path)
    calls = [a_start() for _ in range(4)]  # the last one has the first one carried
    assert all(map(writer.start, calls))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full_for_the_journal)
        assert read_all(reader) == []
        reader.close()
    first = calls[0].id.bytes
    assert carried_path(tmp_path / "0", first).exists()
    for path in segment_files(tmp_path):
        data = bytearray(path.read_bytes())
        if first in data:
            data[0] ^= 1
            path.write_bytes(data)
    for start in calls:
        writer.end(start.id, an_end())
    writer.close()
    assert sorted(ids(recorded(tmp_path))) == sorted(start.id for start in calls)
    assert totals(tmp_path).lost["damaged"] == 0
    assert (totals(tmp_path).captured, totals(tmp_path).waiting) == (len(calls), 0)


@pytest.mark.parametrize("hurt", ["beginning", "gone", "unlinked"])
def test_a_carried_call_that_cannot_be_read_back_is_lost_or_marked(
    tmp_path: Path, hurt: str
) -> None:
    writer, reader = a_writer(tmp_path, segment_bytes=600), SpoolReader(tmp_path)
    id = long_call(writer, reader)
    path = carried_path(tmp_path / "0", id.bytes)
    if hurt == "gone":
        path.unlink()
        writer.end(id, an_end())
        assert read_all(reader) == []  # its START was there
        reader.close()
    else:
        reader.close()
        data = bytearray(path.read_bytes())
        data[60] ^= 1
        path.write_bytes(data) if hurt == "beginning" else path.unlink()
        writer.end(id, an_end())
        assert recorded(tmp_path) == []
    assert totals(tmp_path).lost["damaged"] == 1
    assert totals(tmp_path).waiting == 0
    writer.close()


def test_a_foreign_file_with_such_a_name_is_no_call(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    written = write_call(writer)
    (tmp_path / "0" / ("0" * 32 + ".call")).write_bytes(b"not ours")
    (tmp_path / "0" / ("1" * 32 + ".call")).mkdir()
    assert ids(recorded(tmp_path)) == [written]
    assert sum(totals(tmp_path).lost.values()) == 0
    writer.close()
