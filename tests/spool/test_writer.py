"""The writer: what it appends, and what it does when it cannot."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from proxy.errors import SpoolUnusable
from proxy.exchange import AnswerHead, End, Outcome
from proxy.spool import slot
from proxy.spool import writer as spool_writer
from proxy.spool.reader import SpoolReader
from proxy.spool.segment import PAYLOAD_BYTES_MAX, Found, Kind, scan
from proxy.spool.writer import RETRY_S, SpoolWriter

from .samples import (
    ROOM,
    Clock,
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


def broken(fd: int) -> None:
    raise OSError(5, "Input/output error")


def kinds(path: Path) -> list[Kind]:
    return [Kind(item.header.kind) for item in scan(path.read_bytes()) if isinstance(item, Found)]


def test_a_call_is_its_records_in_order(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    write_call(writer)
    writer.close()
    assert kinds(segment_files(tmp_path)[0]) == [
        Kind.BOOT,
        Kind.START,
        Kind.REQUEST,
        Kind.HEAD,
        Kind.RESPONSE,
        Kind.RESPONSE,
        Kind.END,
    ]


def test_nobody_else_may_look_into_the_spool(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "spool"
    writer = a_writer(root)
    write_call(writer)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "0").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (root / "0").iterdir()} == {0o600}
    writer.close()


def test_each_living_writer_has_its_own_slot_and_a_freed_one_is_taken_over(tmp_path: Path) -> None:
    first, second, third = (a_writer(tmp_path) for _ in range(3))
    assert [first.slot, second.slot, third.slot] == [0, 1, 2]
    second.close()
    again = a_writer(tmp_path)
    assert again.slot == 1
    for writer in (first, third, again):
        writer.close()


def test_a_slot_that_is_a_file_or_a_link_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "0").write_bytes(b"")
    (tmp_path / "1").symlink_to(tmp_path / "elsewhere")
    writer = a_writer(tmp_path)
    assert writer.slot == 2
    writer.close()


@pytest.mark.parametrize("obstacle", ["root", "lock", "page", "slots"])
def test_an_unusable_spool_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    root = tmp_path / "spool"
    match obstacle:
        case "root":
            root.write_bytes(b"")
        case "lock":
            (root / "0" / slot.LOCK).mkdir(parents=True)
        case "page":
            (root / "0" / slot.CAPTURED).mkdir(parents=True)
        case "slots":
            monkeypatch.setattr(slot, "SLOTS_MAX", 0)
    descriptors = len(os.listdir("/dev/fd"))
    with pytest.raises(SpoolUnusable, match=str(root)):
        a_writer(root)
    assert len(os.listdir("/dev/fd")) == descriptors


def test_the_sequence_counts_on_over_restarts(tmp_path: Path) -> None:
    for _ in range(3):
        writer = a_writer(tmp_path)
        write_call(writer)
        write_call(writer)
        writer.close()
    found = recorded(tmp_path)
    assert [delivery.exchange.start.sequence for delivery in found] == [1, 2, 3, 4, 5, 6]
    assert totals(tmp_path).captured == 6


def test_a_segment_is_sealed_at_its_size(tmp_path: Path) -> None:
    writer = a_writer(tmp_path, segment_bytes=1000)
    written = [write_call(writer, b"x" * 400) for _ in range(6)]
    writer.close()
    assert len(segment_files(tmp_path)) > 6
    assert max(path.stat().st_size for path in segment_files(tmp_path)) <= 1000
    assert ids(recorded(tmp_path)) == written


def test_a_segment_is_sealed_at_its_age(tmp_path: Path) -> None:
    clock = Clock()
    writer = a_writer(tmp_path, clock=clock, segment_s=10.0)
    write_call(writer)
    clock.now += 9.9
    write_call(writer)
    assert len(segment_files(tmp_path)) == 1
    clock.now += 0.1
    write_call(writer)
    assert len(segment_files(tmp_path)) == 2
    writer.close()


def test_a_record_larger_than_a_segment_is_kept(tmp_path: Path) -> None:
    writer = a_writer(tmp_path, segment_bytes=100)
    write_call(writer, b"x" * 5000)
    writer.close()
    assert body(recorded(tmp_path)[0].exchange) == (b"x" * 5000, b"yessir")


def test_a_body_larger_than_a_record_is_cut_into_several(tmp_path: Path) -> None:
    large = bytes(PAYLOAD_BYTES_MAX) + b"end"
    writer = a_writer(tmp_path)
    write_call(writer, large, (large, b"more"))
    writer.close()
    (delivery,) = recorded(tmp_path)
    assert delivery.exchange.request == large
    assert delivery.exchange.response_body == large + b"more"
    assert not delivery.is_damaged


def test_a_call_that_was_not_begun_is_refused(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    nobody = call_id()
    assert not writer.request(nobody, 1, b"")
    assert not writer.head(nobody, AnswerHead(1, 200))
    assert not writer.response(nobody, 1, b"")
    assert not writer.end(nobody, an_end())
    writer.close()
    assert kinds(segment_files(tmp_path)[0]) == [Kind.BOOT]


def test_a_closed_writer_refuses_and_may_be_closed_again(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    start = a_start()
    assert writer.start(start)
    writer.close()
    writer.close()
    assert not writer.start(a_start())
    assert not writer.request(start.id, 1, b"")
    assert not writer.end(start.id, an_end())
    assert totals(tmp_path).captured == 1


def test_text_without_utf8_form_loses_no_call(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    assert not writer.start(replace(a_start(), target="\udc80"))
    start = a_start()
    assert writer.start(start)
    assert not writer.head(start.id, AnswerHead(2, 200, (("x", "\udc80"),)))
    assert writer.end(start.id, End(5, Outcome.COMPLETE, error="\udc80", response_bytes=3))
    writer.close()
    (delivery,) = recorded(tmp_path)
    assert delivery.exchange.end == End(5, Outcome.COMPLETE, "unprintable", response_bytes=3)
    assert totals(tmp_path).lost["too_large"] == 1
    assert totals(tmp_path).waiting == 0


def test_a_full_spool_drops_bodies_first_then_calls_never_ends(tmp_path: Path) -> None:
    writer = a_writer(tmp_path, max_bytes=80_000, clock=Clock())
    early = a_start()
    assert writer.start(early)
    assert not writer.is_full
    assert writer.request(early.id, 1, bytes(75_000))
    assert writer.is_full
    assert not writer.response(early.id, 2, b"no")
    late = a_start()
    assert writer.start(late)
    assert not writer.request(late.id, 1, b"no")
    assert not writer.response(late.id, 1, b"no")
    while writer.start(a_start()):
        pass
    assert writer.head(early.id, AnswerHead(3, 200))
    assert writer.end(early.id, an_end())
    assert writer.end(late.id, an_end())
    writer.close()
    counted = totals(tmp_path)
    assert counted.lost["spool_full"] == 1
    assert counted.truncated == 2
    found = recorded(tmp_path)
    assert not any(delivery.is_damaged for delivery in found)
    assert {early.id, late.id} <= set(ids(found))


def test_a_spool_that_was_emptied_takes_calls_again(tmp_path: Path) -> None:
    clock = Clock()
    writer = a_writer(tmp_path, max_bytes=60_000, segment_bytes=20_000, clock=clock)
    while writer.start(start := a_start()):
        writer.request(start.id, 1, bytes(5000))
        writer.end(start.id, an_end())
    assert writer.is_full
    reader = SpoolReader(tmp_path)
    read_all(reader)
    clock.now += 1
    assert not writer.is_full
    write_call(writer)
    writer.close()
    reader.close()


def test_the_size_counts_other_writers_too(tmp_path: Path) -> None:
    clock = Clock()
    first = a_writer(tmp_path, max_bytes=100_000, clock=clock)
    second = a_writer(tmp_path, max_bytes=100_000, clock=clock, segment_bytes=1)
    start = a_start()
    assert first.start(start)
    assert first.request(start.id, 1, bytes(95_000))
    assert second.start(a_start())  # a new segment: the spool is measured
    assert second.is_full
    first.close()
    second.close()


def test_after_an_io_error_calls_go_on_in_a_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    writer = a_writer(tmp_path, clock=clock)
    kept = write_call(writer)
    open_call = a_start()
    assert writer.start(open_call)

    def broken(fd: int, parts: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", broken)
        assert not writer.start(a_start())
        assert not writer.start(a_start())
        assert not writer.head(open_call.id, AnswerHead(1, 200))
        assert not writer.end(open_call.id, an_end())
    assert not writer.start(a_start())
    clock.now += RETRY_S
    later = write_call(writer)
    writer.close()
    assert len(segment_files(tmp_path)) == 2
    found = recorded(tmp_path)
    assert ids(found) == [kept, open_call.id, later]
    assert [delivery.is_damaged for delivery in found] == [False, True, False]
    assert found[1].exchange.end == an_end()
    assert totals(tmp_path).lost["io_error"] == 3
    assert totals(tmp_path).waiting == 0


def test_after_an_io_error_no_traffic_is_too_dense_for_a_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    writer = a_writer(tmp_path, clock=clock)
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", lambda fd, parts: broken(fd))
        assert not writer.start(a_start())
    kept = []
    for _ in range(6):
        clock.now += RETRY_S * 0.3
        kept.append(writer.start(a_start()))
    writer.close()
    assert kept == [False] * 3 + [True] * 3


def test_a_record_written_short_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    writer = a_writer(tmp_path, clock=clock)
    real = os.write

    def short(fd: int, parts: tuple[bytes, bytes]) -> int:
        return real(fd, b"".join(parts)[:-1])

    start = a_start()
    assert writer.start(start)
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", short)
        assert not writer.request(start.id, 1, b"cut")
    assert not writer.request(start.id, 2, b"later")
    clock.now += RETRY_S
    assert writer.end(start.id, an_end())
    writer.close()
    reader = SpoolReader(tmp_path)
    (delivery,) = read_all(reader)
    reader.close()
    assert delivery.exchange.request == b""
    assert not delivery.is_damaged
    assert totals(tmp_path).torn == 1
    assert totals(tmp_path).truncated == 1


def together(writer: SpoolWriter, body: bytes = b"ask", answer: bytes = b"yes") -> UUID | None:
    """One whole call in two writes."""
    id = call_id()
    if (kept := writer.begin(id, a_start(id).to_bytes(), 1, body)) is None:
        return None
    end = replace(an_end(), request_kept=kept, response_kept=len(answer))
    writer.finish(id, AnswerHead(2, 200), 3, answer, end)
    return id


def test_what_is_written_together_is_what_is_written_one_by_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    writer = a_writer(one)
    write_call(writer, answer=(b"yes",))
    write_call(writer, b"x" * (PAYLOAD_BYTES_MAX + 1), (b"y" * (PAYLOAD_BYTES_MAX + 1),))
    writer.close()
    writer = a_writer(two)
    together(writer)
    together(writer, b"x" * (PAYLOAD_BYTES_MAX + 1), b"y" * (PAYLOAD_BYTES_MAX + 1))
    writer.close()
    assert kinds(segment_files(one)[0]) == kinds(segment_files(two)[0])
    for apart, joined in zip(recorded(one), recorded(two), strict=True):
        assert body(apart.exchange) == body(joined.exchange)
        assert apart.exchange.head == joined.exchange.head
        assert not joined.is_damaged


@pytest.mark.parametrize("missing", range(1, 60, 4))
@pytest.mark.parametrize("is_retried", [False, True])
def test_of_a_write_that_came_short_whole_records_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int, is_retried: bool
) -> None:
    """At each of the two writes of a call, cut anywhere: nothing is double, and what the end says
    is kept is what is kept."""
    clock = Clock()
    real = os.write
    tries: list[int] = []

    def short(fd: int, parts: list[bytes]) -> int:
        whole = b"".join(parts)
        tries.append(len(whole))
        if is_retried:
            clock.now += RETRY_S
        return real(fd, whole[: max(1, len(whole) * missing // 60)] if len(tries) == 1 else whole)

    for at in range(2):
        tries.clear()
        root = tmp_path / str(at)
        writer, id = a_writer(root, clock=clock), call_id()
        with monkeypatch.context() as patch:
            if at == 0:
                patch.setattr(os, "writev", short)
            kept = writer.begin(id, a_start(id).to_bytes(), 1, b"ask")
        clock.now += RETRY_S
        with monkeypatch.context() as patch:
            if at == 1:
                patch.setattr(os, "writev", short)
            end = replace(an_end(), request_kept=kept or 0, response_kept=3)
            writer.finish(id, AnswerHead(2, 200), 3, b"yes", end)
        clock.now += RETRY_S
        assert together(writer) is not None
        writer.close()
        found = recorded(root)
        assert totals(root).waiting == 0
        assert totals(root).captured == 1 + (kept is not None) + totals(root).lost["disk_full"]
        assert len(found) == 1 + (kept is not None)
        if kept is not None:
            exchange = found[0].exchange
            assert exchange.start.id == id
            assert exchange.end is not None
            assert len(exchange.request) == exchange.end.request_kept == kept
            assert len(exchange.response_body) == exchange.end.response_kept
            assert not found[0].is_damaged or exchange.head is None


def test_without_descriptors_the_old_segment_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = a_writer(tmp_path, segment_bytes=200)
    monkeypatch.setattr(writer, "_create", no_descriptor)
    written = [write_call(writer), write_call(writer)]
    writer.close()
    assert len(segment_files(tmp_path)) == 1
    assert ids(recorded(tmp_path)) == written


def no_descriptor() -> int:
    raise OSError(24, "Too many open files")


def test_without_any_segment_calls_are_lost_until_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(SpoolWriter, "_create", lambda self: no_descriptor())
        clock = Clock()
        writer = a_writer(tmp_path, clock=clock)
        assert not writer.start(a_start())
    clock.now += RETRY_S
    kept = write_call(writer)
    writer.close()
    assert kinds(segment_files(tmp_path)[0])[0] == Kind.BOOT
    assert ids(recorded(tmp_path)) == [kept]
    assert totals(tmp_path).lost["io_error"] == 1


def test_a_file_in_the_place_of_the_next_segment_is_left_alone(tmp_path: Path) -> None:
    writer = a_writer(tmp_path, segment_bytes=1)
    in_the_way = tmp_path / "0" / "00000002.seg"
    in_the_way.write_bytes(b"mine")
    written = [write_call(writer) for _ in range(2)]
    writer.close()
    assert in_the_way.read_bytes() == b"mine"
    assert ids(recorded(tmp_path)) == written


def test_a_failed_sync_begins_a_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    writer = a_writer(tmp_path, clock=clock)
    monkeypatch.setattr(os, "fdatasync", broken)
    written: list[UUID] = [write_call(writer)]
    while not writer.sync.has_failed:
        os.sched_yield()
    written.append(write_call(writer))
    assert len(segment_files(tmp_path)) == 1
    clock.now += 1
    written.append(write_call(writer))
    assert len(segment_files(tmp_path)) == 2
    writer.close()
    assert ids(recorded(tmp_path)) == written


@pytest.mark.parametrize("hurt", ["deleted", "zeroed", "behind"])
def test_a_hurt_page_is_rebuilt_from_the_segments(tmp_path: Path, hurt: str) -> None:
    writer = a_writer(tmp_path)
    writer.start(replace(a_start(), target="\udc80"))
    writer.close()
    writer = a_writer(tmp_path)
    page = tmp_path / "0" / slot.CAPTURED
    before = page.read_bytes()
    write_call(writer)
    writer.close()
    match hurt:
        case "deleted":
            page.unlink()
        case "zeroed":
            page.write_bytes(bytes(4096))
        case "behind":
            page.write_bytes(before)
    writer = a_writer(tmp_path)
    assert totals(tmp_path).captured == 2
    assert totals(tmp_path).lost["too_large"] == 1
    write_call(writer)
    writer.close()
    assert len(recorded(tmp_path)) == 2
    assert totals(tmp_path).waiting == 0


def test_rebuilding_finds_the_last_sequence_before_empty_segments(tmp_path: Path) -> None:
    writer = a_writer(tmp_path)
    write_call(writer)
    writer.close()
    (tmp_path / "0" / "00000002.seg").write_bytes(b"")
    (tmp_path / "0" / "00000003.seg").mkdir()
    (tmp_path / "0" / slot.CAPTURED).unlink()
    writer = a_writer(tmp_path)
    assert totals(tmp_path).captured == 1
    assert segment_files(tmp_path)[-1].name == "00000004.seg"
    writer.close()


def test_room_is_not_asked_of_a_spool_that_has_it(tmp_path: Path) -> None:
    writer = a_writer(tmp_path, max_bytes=ROOM)
    assert not writer.is_full
    writer.close()


async def test_whoever_waits_for_the_disk_is_told_after_the_next_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (sync(fd), synced.append(os.fstat(fd).st_size)))
    writer = a_writer(tmp_path, waits_for_disk=True)
    write_call(writer)
    size = segment_files(tmp_path)[-1].stat().st_size
    await asyncio.gather(*(writer.synced() for _ in range(20)))
    assert synced[-1] == size
    writer.close()


async def test_a_sync_that_fails_or_hangs_holds_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda fd: release.wait(30))
    monkeypatch.setattr(spool_writer, "SYNC_WAIT_MAX_S", 0.05)
    writer = a_writer(tmp_path, waits_for_disk=True)
    write_call(writer)
    async with asyncio.timeout(10):
        await writer.synced()
    monkeypatch.setattr(os, "fdatasync", broken)
    release.set()
    async with asyncio.timeout(10):
        await writer.synced()
    monkeypatch.undo()
    writer.close()
