"""The reader: what it delivers, when, and what it makes of a directory in any state."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from proxy.errors import SpoolUnusable
from proxy.exchange import AnswerHead
from proxy.spool import slot
from proxy.spool.journal import acknowledged
from proxy.spool.reader import SpoolReader
from proxy.spool.segment import HEADER_BYTES, Kind, first_bytes, header_bytes, scan

from .samples import (
    ROOM,
    a_start,
    a_writer,
    an_end,
    body,
    call_id,
    ids,
    read_all,
    recorded,
    segment_files,
    totals,
    write_call,
)


def test_calls_come_as_they_end(tmp_path: Path) -> None:
    writer, reader = a_writer(tmp_path), SpoolReader(tmp_path)
    slow, fast = a_start(), a_start()
    writer.start(slow)
    writer.start(fast)
    assert reader.read(10, ROOM) == []
    writer.end(fast.id, an_end())
    assert ids(reader.read(10, ROOM)) == [fast.id]
    writer.end(slow.id, an_end())
    assert ids(reader.read(10, ROOM)) == [slow.id]
    assert reader.read(10, ROOM) == []
    reader.close()
    writer.close()


def test_an_exchange_is_what_was_written(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    start = a_start()
    writer.start(start)
    writer.request(start.id, 1, b"as")
    writer.request(start.id, 2, b"k")
    writer.head(start.id, AnswerHead(3, 200, (("content-type", "text/plain"),)))
    writer.response(start.id, 4, b"yes")
    writer.response(start.id, 5, b"")
    writer.end(start.id, an_end(6))
    writer.close()
    (delivery,) = recorded(tmp_path)
    exchange = delivery.exchange
    assert exchange.start.sequence == 1
    assert exchange.request == b"ask"
    assert exchange.head == AnswerHead(3, 200, (("content-type", "text/plain"),))
    assert [(piece.at_us, piece.data) for piece in exchange.response] == [(4, b"yes"), (5, b"")]
    assert exchange.end == an_end(6)
    assert not delivery.is_damaged
    assert delivery.slot == 0


def test_a_batch_keeps_its_limits(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    written = [write_call(writer, bytes(1000)) for _ in range(10)]
    reader = SpoolReader(tmp_path)
    assert reader.read(0, ROOM) == []
    assert ids(reader.read(3, ROOM)) == written[:3]
    assert ids(reader.read(10, 1)) == written[3:4]
    assert ids(reader.read(10, 2500)) == written[4:6]
    assert ids(reader.read(10, ROOM)) == written[6:]
    reader.close()
    writer.close()


def test_no_slot_starves(tmp_path: Path) -> None:
    writers = [a_writer(tmp_path) for _ in range(3)]
    for writer in writers:
        for _ in range(10):
            write_call(writer)
    reader = SpoolReader(tmp_path)
    assert {delivery.slot for delivery in reader.read(3, ROOM)} == {0, 1, 2}
    assert len(read_all(reader)) == 27
    reader.close()
    for writer in writers:
        writer.close()


def test_new_slots_are_found_while_reading(tmp_path: Path) -> None:
    reader = SpoolReader(tmp_path)
    assert reader.read(10, ROOM) == []
    writer = a_writer(tmp_path)
    written = write_call(writer)
    assert ids(reader.read(10, ROOM)) == [written]
    reader.close()
    writer.close()


def test_only_one_may_read(tmp_path: Path) -> None:
    reader = SpoolReader(tmp_path)
    with pytest.raises(SpoolUnusable, match="another recorder"):
        SpoolReader(tmp_path)
    reader.close()
    SpoolReader(tmp_path).close()


def test_a_spool_that_cannot_be_locked_is_refused(tmp_path: Path) -> None:
    (tmp_path / slot.RECORDER_LOCK).mkdir()
    with pytest.raises(SpoolUnusable, match=str(tmp_path)):
        SpoolReader(tmp_path)


def test_what_was_acknowledged_is_never_delivered_again(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    written = [write_call(writer) for _ in range(6)]
    reader = SpoolReader(tmp_path)
    batch = reader.read(10, ROOM)
    reader.acknowledge(batch[:2])
    reader.acknowledge(batch[2:3], state="quarantined")
    reader.acknowledge(batch[3:4], state="lost")
    reader.acknowledge(batch[:4])
    reader.close()
    assert ids(recorded(tmp_path)) == written[4:]
    counted = totals(tmp_path)
    assert (counted.stored, counted.quarantined, counted.lost["discarded"]) == (4, 1, 1)
    assert counted.waiting == 0
    writer.close()


def test_what_was_not_acknowledged_is_delivered_again(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    written = [write_call(writer) for _ in range(3)]
    reader = SpoolReader(tmp_path)
    assert ids(reader.read(10, ROOM)) == written
    assert reader.read(10, ROOM) == []
    reader.close()
    assert ids(recorded(tmp_path)) == written
    writer.close()


def test_a_segment_goes_when_all_its_calls_are_settled_and_a_later_one_exists(
    tmp_path: Path,
) -> None:
    writer = a_writer(tmp_path, segment_bytes=1500)
    for _ in range(8):
        write_call(writer, bytes(500))
    assert len(segment_files(tmp_path)) > 4
    reader = SpoolReader(tmp_path)
    batch = reader.read(100, ROOM)
    reader.acknowledge(batch[1:])
    assert segment_files(tmp_path)[0].name == "00000001.seg"
    reader.acknowledge(batch[:1])
    assert len(segment_files(tmp_path)) == 1
    assert read_all(reader) == []
    reader.close()
    writer.close()


def test_a_call_over_several_segments_holds_them_all(tmp_path: Path) -> None:
    writer = a_writer(tmp_path, segment_bytes=1000)
    start = a_start()
    writer.start(start)
    for at_us in range(5):
        writer.response(start.id, at_us, bytes([at_us]) * 800)
    others = [write_call(writer) for _ in range(3)]
    reader = SpoolReader(tmp_path)
    assert ids(read_all(reader)) == others
    writer.end(start.id, an_end())
    reader.close()
    (delivery,) = recorded(tmp_path)
    assert delivery.exchange.response_body == b"".join(bytes([n]) * 800 for n in range(5))
    assert len(segment_files(tmp_path)) <= 2
    writer.close()


def test_a_segment_that_cannot_be_deleted_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = a_writer(tmp_path, segment_bytes=100)
    for _ in range(3):
        write_call(writer)
    reader = SpoolReader(tmp_path)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        read_all(reader)
        assert len(segment_files(tmp_path)) > 3
    write_call(writer)
    read_all(reader)
    assert len(segment_files(tmp_path)) == 1
    reader.close()
    writer.close()


def test_an_open_call_waits_while_its_writer_lives(tmp_path: Path) -> None:
    writer, reader = a_writer(tmp_path), SpoolReader(tmp_path)
    start = a_start()
    writer.start(start)
    writer.request(start.id, 1, b"ask")
    assert reader.read(10, ROOM) == []
    writer.close()  # with a call open, as when the process is killed
    (delivery,) = reader.read(10, ROOM)
    assert delivery.exchange.end is None
    assert delivery.exchange.request == b"ask"
    assert not delivery.is_damaged
    reader.close()


def test_a_new_incarnation_says_that_the_old_one_crashed(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    old = a_start()
    writer.start(old)
    writer.close()
    writer = a_writer(tmp_path)
    new = a_start()
    writer.start(new)
    reader = SpoolReader(tmp_path)
    (delivery,) = reader.read(10, ROOM)
    assert delivery.exchange.start.id == old.id
    assert delivery.exchange.end is None
    writer.end(new.id, an_end())
    (delivery,) = reader.read(10, ROOM)
    assert delivery.exchange.end == an_end()
    reader.close()
    writer.close()


def test_a_call_of_the_next_incarnation_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = a_writer(tmp_path)
    old, new = a_start(), a_start()
    writer.start(old)
    writer.close()
    reader = SpoolReader(tmp_path)
    real = slot.is_held

    def restarted_meanwhile(path: Path) -> bool:
        nonlocal writer
        held = real(path)
        writer = a_writer(tmp_path)
        writer.start(new)
        monkeypatch.setattr(slot, "is_held", real)
        return held

    monkeypatch.setattr(slot, "is_held", restarted_meanwhile)
    assert ids(read_all(reader)) == [old.id]
    writer.end(new.id, an_end())
    assert ids(read_all(reader)) == [new.id]
    reader.close()
    writer.close()


def test_the_end_written_just_before_the_writer_died_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = a_writer(tmp_path)
    start = a_start()
    writer.start(start)
    reader = SpoolReader(tmp_path)
    real = slot.is_held

    def ended_meanwhile(path: Path) -> bool:
        writer.end(start.id, an_end())
        writer.close()
        monkeypatch.setattr(slot, "is_held", real)
        return real(path)

    monkeypatch.setattr(slot, "is_held", ended_meanwhile)
    (delivery,) = read_all(reader)
    assert delivery.exchange.end == an_end()
    reader.close()


def hurt(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_every_prefix_of_a_segment_gives_its_whole_records(tmp_path: Path) -> None:
    writer = a_writer(tmp_path / "whole")
    first, second = write_call(writer, b"a"), write_call(writer, b"b")
    writer.close()
    data = segment_files(tmp_path / "whole")[0].read_bytes()
    ends = [item.end for item in scan(data)]
    last_of_first = ends[6]
    for length in range(0, len(data) + 1, 13):
        root = tmp_path / f"cut{length}"
        (root / "0").mkdir(parents=True)
        (root / "0" / "00000001.seg").write_bytes(data[:length])
        (root / "0" / "00000002.seg").write_bytes(b"")
        found = recorded(root)
        begun = sum(length >= end for end in (ends[1], ends[7]))
        assert ids(found) == [first, second][:begun], length
        if length >= last_of_first:
            assert found[0].exchange.end is not None
        is_torn = length not in (0, *ends)
        assert totals(root).torn == is_torn, length
        assert totals(root).damaged == 0
        shutil.rmtree(root)


def test_every_hurt_byte_leaves_the_other_calls_whole(tmp_path: Path) -> None:
    writer = a_writer(tmp_path / "whole")
    written = [write_call(writer, bytes([n])) for n in range(3)]
    writer.close()
    whole = segment_files(tmp_path / "whole")[0]
    items = list(scan(whole.read_bytes()))
    for offset in range(0, whole.stat().st_size, 9):
        root = tmp_path / f"hurt{offset}"
        (root / "0").mkdir(parents=True)
        shutil.copy(tmp_path / "whole" / "0" / slot.CAPTURED, root / "0")
        path = Path(shutil.copy(whole, root / "0"))
        hurt(path, offset)
        index = next(n for n, item in enumerate(items) if offset < item.end)
        found = recorded(root)
        untouched = [id for n, id in enumerate(written) if not 1 + 6 * n <= index < 7 + 6 * n]
        assert [d.exchange.start.id for d in found if not d.is_damaged and d.exchange.end] == (
            untouched
        ), offset
        counted = totals(root)
        is_start = index in (1, 7, 13)
        assert len(found) == 3 - is_start
        # A last call's lost beginning shows when the next one begins, not before.
        assert counted.lost["damaged"] == (index in (1, 7))
        assert counted.damaged == 1
        assert counted.waiting == (index == 13)
        shutil.rmtree(root)


def test_a_lost_beginning_at_the_end_shows_when_the_writer_comes_back(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    write_call(writer)
    write_call(writer)
    writer.close()
    path = segment_files(tmp_path)[0]
    hurt(path, list(scan(path.read_bytes()))[7].offset + 60)
    assert len(recorded(tmp_path)) == 1
    assert totals(tmp_path).waiting == 1
    a_writer(tmp_path).close()
    assert recorded(tmp_path) == []
    assert totals(tmp_path).lost["damaged"] == 1
    assert totals(tmp_path).waiting == 0


def test_a_lost_beginning_shows_when_a_crash_is_found(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    open_call = a_start()
    writer.start(open_call)
    write_call(writer)
    writer.close()
    path = segment_files(tmp_path)[0]
    hurt(path, list(scan(path.read_bytes()))[2].offset + 60)
    assert ids(recorded(tmp_path)) == [open_call.id]
    assert totals(tmp_path).lost["damaged"] == 1
    assert totals(tmp_path).waiting == 0


def test_damage_is_counted_once_over_restarts(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    for _ in range(4):
        write_call(writer)
    writer.close()
    path = segment_files(tmp_path)[0]
    items = list(scan(path.read_bytes()))
    hurt(path, items[1].offset)
    hurt(path, items[8].offset + HEADER_BYTES)
    for _ in range(3):
        reader = SpoolReader(tmp_path)
        reader.acknowledge(reader.read(1, ROOM))
        reader.close()
    assert (totals(tmp_path).damaged, totals(tmp_path).lost["damaged"]) == (2, 1)
    assert totals(tmp_path).waiting == 0


def test_a_start_that_cannot_be_understood_is_lost_not_fatal(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    before = write_call(writer)
    key = call_id().bytes
    with segment_files(tmp_path)[0].open("ab") as file:
        file.write(header_bytes(Kind.START, key, b"[]", number=2) + b"[]")
        file.write(header_bytes(Kind.END, key, b"{}", part=1, number=3) + b"{}")
    writer.close()
    assert ids(recorded(tmp_path)) == [before]
    assert totals(tmp_path).lost["damaged"] == 1
    assert recorded(tmp_path) == []


@pytest.mark.parametrize("kind", [Kind.HEAD, Kind.END])
def test_a_part_that_cannot_be_understood_marks_the_call(tmp_path: Path, kind: Kind) -> None:
    writer = a_writer(tmp_path)
    start = a_start()
    writer.start(start)
    with segment_files(tmp_path)[0].open("ab") as file:
        file.write(header_bytes(kind, start.id.bytes, b"null", part=1) + b"null")
    writer.close()
    (delivery,) = recorded(tmp_path)
    assert delivery.is_damaged
    assert (delivery.exchange.head, delivery.exchange.end) == (None, None)


def test_a_segment_that_vanishes_under_the_reader_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.spool.follower.CARRY_SEGMENTS", 100)
    writer = a_writer(tmp_path, segment_bytes=700)
    start = a_start()
    writer.start(start)
    for at_us in range(4):
        writer.response(start.id, at_us, bytes(300))
    gone = write_call(writer)
    reader = SpoolReader(tmp_path)
    assert ids(reader.read(10, ROOM)) == [gone]
    segment_files(tmp_path)[1].unlink()
    writer.end(start.id, an_end())
    (delivery,) = reader.read(10, ROOM)
    assert delivery.is_damaged
    os.truncate(segment_files(tmp_path)[0], 100)
    reader.close()
    reader = SpoolReader(tmp_path)
    assert ids(read_all(reader)) == [gone]
    reader.close()
    writer.close()


def test_a_segment_cut_under_the_reader_costs_what_was_cut(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    kept, cut = a_start(), a_start()
    for start in (kept, cut):
        writer.start(start)
    reader = SpoolReader(tmp_path)
    assert reader.read(10, ROOM) == []
    path = segment_files(tmp_path)[0]
    items = list(scan(path.read_bytes()))
    writer.close()
    os.truncate(path, items[2].offset + 5)
    assert ids(read_all(reader)) == [kept.id]
    assert totals(tmp_path).lost["damaged"] == 1
    reader.close()


@pytest.mark.parametrize("kind", ["empty", "directory", "link", "pipe", "dangling", "garbage"])
def test_a_foreign_segment_is_passed_over(tmp_path: Path, kind: str) -> None:
    writer = a_writer(tmp_path)
    first = write_call(writer)
    writer.close()
    path = tmp_path / "0" / "00000002.seg"
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to(segment_files(tmp_path)[0])
        case "pipe":
            os.mkfifo(path)
        case "dangling":
            path.symlink_to("nowhere")
        case "garbage":
            path.write_bytes(os.urandom(5000))
    writer = a_writer(tmp_path)
    second = write_call(writer)
    assert ids(recorded(tmp_path)) == [first, second]
    assert totals(tmp_path).waiting == 0
    assert os.path.lexists(path) == (kind not in ("empty", "garbage"))
    writer.close()


def test_foreign_names_are_left_alone(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    write_call(writer)
    writer.close()
    names = ["1.seg", "00000001.seg.bak", "notes", "0000000x.seg", "acks.old"]
    for name in names:
        (tmp_path / "0" / name).write_bytes(b"x")
    (tmp_path / "00").mkdir()
    (tmp_path / "99999").mkdir()
    (tmp_path / "7").write_bytes(b"")
    assert len(recorded(tmp_path)) == 1
    assert all((tmp_path / "0" / name).exists() for name in names)


def test_an_unreadable_segment_is_kept_and_not_counted_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = a_writer(tmp_path, segment_bytes=1)
    first = write_call(writer, answer=())
    middle = write_call(writer, answer=())
    last = write_call(writer, answer=())
    writer.close()
    hidden = [path for path in segment_files(tmp_path) if middle.bytes in path.read_bytes()]
    real = os.open

    def refuse(path: object, *rest: object, **more: object) -> int:
        if path in hidden:
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **more)  # type: ignore[arg-type]  # passed on as they came

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert ids(recorded(tmp_path)) == [first, last]
    assert totals(tmp_path).waiting == 1
    assert sum(totals(tmp_path).lost.values()) == 0
    assert all(path.exists() for path in hidden)
    assert ids(recorded(tmp_path)) == [middle]
    assert totals(tmp_path).waiting == 0


def test_without_descriptors_nothing_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = a_writer(tmp_path)
    written = write_call(writer)
    writer.close()
    reader = SpoolReader(tmp_path)

    def exhausted(slot: Path, number: int) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("proxy.spool.follower.open_segment", exhausted)
        assert reader.read(10, ROOM) == []
    assert ids(read_all(reader)) == [written]
    reader.close()


def test_a_disk_that_does_not_read_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = a_writer(tmp_path)
    first = write_call(writer)
    writer.close()
    writer = a_writer(tmp_path)
    second = write_call(writer)
    writer.close()
    bad = segment_files(tmp_path)[0].stat().st_ino
    real = os.pread

    def broken(fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == bad:
            raise OSError(5, "Input/output error")
        return real(fd, length, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        assert ids(recorded(tmp_path)) == []  # it may read in a moment
        patch.setattr("proxy.spool.follower.READ_TRIES_MAX", 1)
        assert ids(recorded(tmp_path)) == [second]
    assert sum(totals(tmp_path).lost.values()) == 0
    assert ids(recorded(tmp_path)) == [first]


def test_a_slot_without_a_usable_journal_waits(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    written = write_call(writer)
    writer.close()
    (tmp_path / "0" / slot.ACKS).mkdir()
    reader = SpoolReader(tmp_path)
    descriptors = len(os.listdir("/dev/fd"))
    assert reader.read(10, ROOM) == []
    assert len(os.listdir("/dev/fd")) == descriptors
    (tmp_path / "0" / slot.ACKS).rmdir()
    assert ids(read_all(reader)) == [written]
    reader.close()


def test_a_huge_sparse_segment_is_no_trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.spool.segment_file.FILE_BYTES_MAX", 128 * 2**20)
    writer = a_writer(tmp_path)
    write_call(writer)
    writer.close()
    with (tmp_path / "0" / "00000002.seg").open("wb") as file:
        file.truncate(2**40)
    writer = a_writer(tmp_path)
    second = write_call(writer)
    reader = SpoolReader(tmp_path)
    found = reader.read(10, ROOM)
    for _ in range(100):
        if second in ids(found):
            break
        found += reader.read(10, ROOM)
    assert second in ids(found)
    reader.close()
    writer.close()


def test_records_of_a_newer_version_are_kept_for_a_newer_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = a_writer(tmp_path)
    first = write_call(writer)
    writer.close()
    with monkeypatch.context() as patch:
        patch.setattr("proxy.spool.segment._FIRST", first_bytes(2))
        writer = a_writer(tmp_path)
        newer = write_call(writer)
        writer.close()
    writer = a_writer(tmp_path)
    last = write_call(writer)
    writer.close()
    assert ids(recorded(tmp_path)) == [first, last]
    assert (totals(tmp_path).waiting, sum(totals(tmp_path).lost.values())) == (1, 0)
    assert (tmp_path / "0" / "00000002.seg").exists()
    monkeypatch.setattr("proxy.spool.follower.VERSION", 2)
    assert ids(recorded(tmp_path)) == [newer]
    assert totals(tmp_path).waiting == 0


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_copied_segment_does_not_break_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_forgotten: bool
) -> None:
    if is_forgotten:  # the journal is written anew all the time
        monkeypatch.setattr("proxy.spool.journal.ROTATE_BYTES_MIN", 1)
    writer = a_writer(tmp_path)
    written = [write_call(writer) for _ in range(2)]
    writer.close()
    copy = tmp_path / "copy"
    shutil.copy(segment_files(tmp_path)[0], copy)
    writer = a_writer(tmp_path)
    written.append(write_call(writer))
    writer.close()
    assert ids(recorded(tmp_path)) == written
    while is_forgotten and written[0].bytes in acknowledged(tmp_path / "0"):
        recorded(tmp_path)
    shutil.copy(copy, tmp_path / "0" / "00000003.seg")
    (tmp_path / "0" / "00000004.seg").write_bytes(b"")
    assert ids(recorded(tmp_path)) == (written[:2] if is_forgotten else [])
    assert totals(tmp_path).waiting == 0


def test_a_spool_without_its_lock_file_has_no_writer(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    start = a_start()
    writer.start(start)
    writer.close()
    (tmp_path / "0" / slot.LOCK).unlink()
    assert ids(recorded(tmp_path)) == [start.id]


def test_a_lock_that_cannot_be_looked_at_counts_as_held(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert slot.is_held(tmp_path / "loop")


def test_an_unlistable_spool_is_empty(tmp_path: Path) -> None:
    assert slot.slots(tmp_path / "none") == []
    assert slot.segments(tmp_path / "none") == []
    assert slot.disk_bytes(tmp_path / "none") == 0


def test_what_memory_holds_of_an_open_call_is_its_positions(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    start = a_start()
    writer.start(start)
    for at_us in range(1000):
        writer.response(start.id, at_us, bytes(1000))
    reader = SpoolReader(tmp_path)
    assert reader.read(10, ROOM) == []
    writer.end(start.id, an_end())
    (delivery,) = reader.read(10, ROOM)
    assert delivery.tracked.positions.itemsize * len(delivery.tracked.positions) == 8 * 1002
    assert body(delivery.exchange) == (b"", bytes(1_000_000))
    reader.close()
    writer.close()
