"""Totals and the independent look: the same numbers from two sides, read by anybody."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from proxy.spool import slot
from proxy.spool.reader import SpoolReader
from proxy.spool.segment import first_bytes, scan
from proxy.spool.totals import Loss, SlotTotals, Totals, id_ms, read_totals, summed
from proxy.spool.verify import verify

from .samples import (
    ROOM,
    a_start,
    a_writer,
    an_end,
    call_id,
    read_all,
    recorded,
    segment_files,
    totals,
    write_call,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def at(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def test_an_empty_or_absent_spool_has_no_slots(tmp_path: Path) -> None:
    assert read_totals(tmp_path) == read_totals(tmp_path / "none") == []
    assert summed([]) == Totals(lost={reason.value: 0 for reason in Loss})


def test_a_call_is_captured_when_it_begins_and_waits_until_it_is_settled(tmp_path: Path) -> None:
    writer, reader = a_writer(tmp_path), SpoolReader(tmp_path)
    start = a_start()
    writer.start(start)
    assert (totals(tmp_path).captured, totals(tmp_path).waiting) == (1, 1)
    writer.end(start.id, an_end())
    batch = reader.read(10, ROOM)
    assert totals(tmp_path).waiting == 1
    reader.acknowledge(batch)
    assert (totals(tmp_path).stored, totals(tmp_path).waiting) == (1, 0)
    reader.close()
    writer.close()


def test_a_live_slot_says_so(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    assert [(part.slot, part.is_live) for part in read_totals(tmp_path)] == [(0, True)]
    writer.close()
    assert [(part.slot, part.is_live) for part in read_totals(tmp_path)] == [(0, False)]


def test_the_size_is_that_of_the_files(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    write_call(writer, bytes(100_000))
    assert 100_000 < totals(tmp_path).disk_bytes < 120_000
    writer.close()


@pytest.mark.parametrize("read", ["nothing", "first", "both"])
def test_the_oldest_waiting_call_is_known_to_others(tmp_path: Path, read: str) -> None:
    writer, reader = a_writer(tmp_path), SpoolReader(tmp_path)
    for hours in range(3):
        start = a_start(call_id(at(NOON + timedelta(hours=hours))))
        writer.start(start)
        writer.end(start.id, an_end())
    settled = {"nothing": 0, "first": 1, "both": 2}[read]
    batch = reader.read(settled, ROOM)
    reader.acknowledge(batch)
    assert totals(tmp_path).oldest_waiting_at == NOON + timedelta(hours=settled)
    reader.acknowledge(reader.read(10, ROOM)[1:])
    assert totals(tmp_path).oldest_waiting_at == NOON + timedelta(hours=settled)
    reader.close()
    writer.close()


def test_when_nothing_waits_nothing_is_old(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    write_call(writer)
    recorded(tmp_path)
    assert totals(tmp_path).oldest_waiting_at is None
    writer.close()


def test_the_oldest_call_is_found_past_unreadable_segments(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    start = a_start(call_id(at(NOON)))
    writer.close()
    (tmp_path / "0" / "00000002.seg").symlink_to("nowhere")
    writer = a_writer(tmp_path)
    writer.start(start)
    assert totals(tmp_path).oldest_waiting_at == NOON
    for path in segment_files(tmp_path):
        path.unlink()
    assert totals(tmp_path).oldest_waiting_at is None
    writer.close()


def test_ids_of_other_versions_have_no_instant() -> None:
    assert id_ms(call_id(1234).bytes) == 1234
    assert id_ms(uuid4().bytes) == 0


def test_sums_add_up() -> None:
    one = SlotTotals(5, 2, 1, {"disk_full": 1}, 1, 2, 3, NOON, 10, slot=0)
    other = SlotTotals(7, 3, 0, {"disk_full": 2, "damaged": 1}, 0, 1, 1, None, 5, slot=1)
    total = summed([one, other])
    assert (total.captured, total.stored, total.quarantined) == (12, 5, 1)
    assert (total.lost["disk_full"], total.lost["damaged"]) == (3, 1)
    assert (total.truncated, total.damaged, total.torn, total.disk_bytes) == (1, 3, 4, 15)
    assert total.oldest_waiting_at == NOON
    assert total.waiting == one.waiting + other.waiting == 2
    later = SlotTotals(oldest_waiting_at=NOON + timedelta(1))
    assert summed([later, one]).oldest_waiting_at == NOON


def test_a_sound_spool_verifies(tmp_path: Path) -> None:
    writer, reader = a_writer(tmp_path), SpoolReader(tmp_path)
    for _ in range(4):
        write_call(writer)
    reader.acknowledge(reader.read(1, ROOM))
    (check,) = verify(tmp_path)
    assert check.is_consistent
    assert (check.segments, check.records, check.waiting, check.unnoticed) == (1, 25, 3, 0)
    assert check.problems == ()
    reader.close()
    writer.close()


def test_damage_is_named_and_its_calls_are_missed(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    for _ in range(3):
        write_call(writer)
    writer.close()
    path = segment_files(tmp_path)[0]
    data = bytearray(path.read_bytes())
    items = list(scan(bytes(data)))
    data[items[1].offset] ^= 1
    data[items[13].offset + 60] ^= 1
    path.write_bytes(data)
    (check,) = verify(tmp_path)
    assert check.is_consistent
    assert (check.waiting, check.unnoticed) == (1, 2)
    assert check.problems == (
        f"00000001.seg: damaged from {items[1].offset} to {items[1].end}",
        f"00000001.seg: damaged payload at {items[13].offset}",
    )


def test_a_torn_tail_and_an_unreadable_segment_are_named(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    write_call(writer)
    writer.close()
    path = segment_files(tmp_path)[0]
    size = path.stat().st_size
    os.truncate(path, size - 1)
    (tmp_path / "0" / "00000002.seg").mkdir()
    (check,) = verify(tmp_path)
    assert len(check.problems) == 2
    assert check.problems[0].startswith("00000001.seg: torn at")
    assert check.problems[1].startswith("00000002.seg: ")
    assert check.is_consistent


def test_wrong_totals_are_inconsistent(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    page = tmp_path / "0" / slot.CAPTURED
    write_call(writer)
    before = page.read_bytes()
    write_call(writer)
    writer.close()
    page.write_bytes(before)
    (check,) = verify(tmp_path)
    assert not check.is_consistent


def test_records_of_a_newer_version_are_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("proxy.spool.segment._FIRST", first_bytes(2))
        writer = a_writer(tmp_path)
        write_call(writer)
        writer.close()
    (check,) = verify(tmp_path)
    assert check.is_consistent
    assert check.waiting == 1


def test_a_batch_of_the_reader_and_the_totals_agree_at_each_step(tmp_path: Path) -> None:
    writer = a_writer(tmp_path, segment_bytes=2000)
    reader = SpoolReader(tmp_path)
    for n in range(30):
        write_call(writer)
        if n % 4 == 0:
            read_all(reader, size=3)
        assert all(check.is_consistent for check in verify(tmp_path))
    reader.close()
    writer.close()
