"""The journal: acknowledgements survive whatever happens to the file or the process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.spool import slot
from proxy.spool.journal import Journal, State, acknowledged, last_settled, set_aside
from proxy.spool.reader import SpoolReader
from proxy.spool.segment import PAYLOAD_BYTES_MAX, Found, first_bytes, scan

from .samples import ROOM, a_writer, ids, read_all, recorded, segment_files, totals, write_call
from .test_model import kill

KEYS = [bytes([n]) * 16 for n in range(200)]


def written(path: Path, batches: int) -> bytes:
    journal = Journal(path)
    for n in range(batches):
        journal.append(State.STORED, KEYS[n : n + 1])
    journal.close()
    return (path / slot.ACKS).read_bytes()


def test_acknowledgements_and_counters_come_back(tmp_path: Path) -> None:
    written(tmp_path, 3)
    journal = Journal(tmp_path)
    assert journal.acknowledged == set(KEYS[:3]) == acknowledged(tmp_path)
    assert journal.settled.stored == 3
    journal.close()


def test_a_torn_tail_is_cut_at_every_length(tmp_path: Path) -> None:
    whole = written(tmp_path, 3)
    ends = [item.end for item in scan(whole)]
    for length in range(len(whole)):
        (tmp_path / slot.ACKS).write_bytes(whole[:length])
        (tmp_path / slot.SETTLED).write_bytes(bytes(4096))
        journal = Journal(tmp_path)
        complete = min(3, sum(length >= end for end in ends))
        assert journal.acknowledged == set(KEYS[:complete]), length
        assert journal.settled.stored == complete
        journal.append(State.STORED, KEYS[9:10])
        journal.close()
        assert acknowledged(tmp_path) == {*KEYS[:complete], KEYS[9]}


def test_damage_inside_costs_one_batch_and_is_written_anew(tmp_path: Path) -> None:
    whole = written(tmp_path, 3)
    second = list(scan(whole))[1]
    for offset in range(second.offset, second.end, 7):
        hurt = bytearray(whole)
        hurt[offset] ^= 1
        (tmp_path / slot.ACKS).write_bytes(hurt)
        (tmp_path / slot.SETTLED).write_bytes(bytes(4096))
        journal = Journal(tmp_path)
        assert journal.acknowledged == {KEYS[0], KEYS[2]}
        assert journal.settled.stored == 3
        journal.append(State.STORED, KEYS[5:6])
        journal.close()
        assert acknowledged(tmp_path) == {KEYS[0], KEYS[2], KEYS[5]}
        assert all(isinstance(item, Found) for item in scan((tmp_path / slot.ACKS).read_bytes()))


def test_a_damaged_journal_that_cannot_be_written_anew_grows(tmp_path: Path) -> None:
    hurt = bytearray(written(tmp_path, 3))
    hurt[60] ^= 1
    (tmp_path / slot.ACKS).write_bytes(hurt)
    (tmp_path / slot.ACKS).with_suffix(".new").mkdir()  # of whoever
    journal = Journal(tmp_path)
    journal.append(State.STORED, KEYS[9:10])
    journal.close()
    assert acknowledged(tmp_path) == {KEYS[1], KEYS[2], KEYS[9]}


def test_the_page_wins_where_it_is_newer_and_loses_where_it_is_older(tmp_path: Path) -> None:
    written(tmp_path, 1)
    page, acks = (tmp_path / slot.SETTLED).read_bytes(), (tmp_path / slot.ACKS).read_bytes()
    written(tmp_path, 2)
    (tmp_path / slot.ACKS).write_bytes(acks)
    assert last_settled(tmp_path).stored == 3
    written(tmp_path, 2)
    (tmp_path / slot.SETTLED).write_bytes(page)
    assert last_settled(tmp_path).stored == 5


def test_it_is_written_anew_when_it_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.spool.journal.ROTATE_BYTES_MIN", 2000)
    journal = Journal(tmp_path)
    sizes = []
    for n in range(100):
        journal.append(State.STORED, KEYS[n : n + 1])
        journal.forget(KEYS[n - 5 : n - 4])
        sizes.append((tmp_path / slot.ACKS).stat().st_size)
        assert acknowledged(tmp_path) >= set(KEYS[max(0, n - 4) : n + 1])
    journal.close()
    assert max(sizes) < 4000
    assert not (tmp_path / "acks.new").exists()


def test_more_ids_than_a_record_holds_are_written_anew_in_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = PAYLOAD_BYTES_MAX // 17 + 1000
    keys = [n.to_bytes(16) for n in range(count)]
    journal = Journal(tmp_path)
    for at in range(0, count, 1000):
        journal.append(State.QUARANTINED, keys[at : at + 1000])
    journal.append(State.STORED, [b"s" * 16])
    monkeypatch.setattr(journal, "_rotate_at", 0)
    journal.flush()
    assert set_aside(tmp_path) == set(keys)
    assert acknowledged(tmp_path) == {*keys, b"s" * 16}
    (tmp_path / slot.SETTLED).write_bytes(bytes(4096))
    settled = last_settled(tmp_path)
    assert (settled.stored, settled.quarantined) == (1, count)
    journal.close()


def test_more_ids_than_a_record_holds_wait_for_a_renewal(tmp_path: Path) -> None:
    keys = [n.to_bytes(16) for n in range(PAYLOAD_BYTES_MAX // 17 + 1000)]
    journal = Journal(tmp_path)
    beside = (tmp_path / slot.ACKS).with_suffix(".new")
    beside.mkdir()  # of whoever
    journal.append(State.STORED, keys)
    assert journal.is_behind
    beside.rmdir()
    journal.flush()
    assert not journal.is_behind
    assert acknowledged(tmp_path) == set(keys)
    journal.close()


def test_readers_that_die_before_each_renewal_do_not_put_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.spool.journal.ROTATE_BYTES_MIN", 2000)
    writer, longest = a_writer(tmp_path), 0
    for _ in range(30):
        reader = SpoolReader(tmp_path)
        write_call(writer)
        read_all(reader)
        kill(reader)
        longest = max(longest, (tmp_path / "0" / slot.ACKS).stat().st_size)
    assert longest < 2500
    writer.close()


@pytest.mark.parametrize("fails", ["write", "rename", "short"])
def test_a_failed_renewal_goes_on_with_the_old_journal_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr("proxy.spool.journal.ROTATE_BYTES_MIN", 1)
    journal = Journal(tmp_path)
    journal.append(State.STORED, KEYS[:1])

    def broken(*_: object) -> int:
        raise OSError(28, "No space left on device")

    descriptors = len(os.listdir("/dev/fd"))
    with monkeypatch.context() as patch:
        if fails == "short":
            patch.setattr(os, "write", lambda fd, data: len(data) - 1)
        else:
            patch.setattr(os, fails, broken)
        journal.append(State.STORED, KEYS[1:2])
    assert len(os.listdir("/dev/fd")) == descriptors
    assert not journal.is_behind
    assert acknowledged(tmp_path) == set(KEYS[:2])
    old = (tmp_path / slot.ACKS).stat().st_ino
    journal.flush()
    assert (tmp_path / slot.ACKS).stat().st_ino != old
    assert acknowledged(tmp_path) == set(KEYS[:2])
    journal.close()


def test_a_journal_written_short_is_cut_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.append(State.STORED, KEYS[:1])
    size = (tmp_path / slot.ACKS).stat().st_size
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:-1], at))
        journal.append(State.STORED, KEYS[1:2])
    assert journal.is_behind
    assert (tmp_path / slot.ACKS).stat().st_size == size
    journal.append(State.STORED, KEYS[2:3])
    journal.close()
    assert acknowledged(tmp_path) == set(KEYS[:3])


def test_a_disk_too_full_for_the_journal_is_emptied_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = a_writer(tmp_path, segment_bytes=100)
    for _ in range(5):
        write_call(writer)
    reader = SpoolReader(tmp_path)
    batch = reader.read(100, ROOM)
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset + len(data) > os.fstat(fd).st_size:
            raise OSError(28, "No space left on device")
        return real(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        reader.acknowledge(batch)
        assert len(segment_files(tmp_path)) == 1
        assert totals(tmp_path).stored == 5
    assert read_all(reader) == []
    reader.close()
    assert recorded(tmp_path) == []
    assert (totals(tmp_path).stored, totals(tmp_path).waiting) == (5, 0)
    writer.close()


def test_what_a_full_disk_keeps_out_of_the_journal_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):  # in a segment each, the second of which stays
        writer = a_writer(tmp_path)
        write_call(writer)
        writer.close()
    reader = SpoolReader(tmp_path)
    batch = reader.read(100, ROOM)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("proxy.spool.journal.Journal._append", full)
        reader.acknowledge(batch)
        kill(reader)
    assert len(segment_files(tmp_path)) == 1
    assert (totals(tmp_path).stored, totals(tmp_path).waiting) == (1, 1)
    assert ids(recorded(tmp_path)) == [batch[1].id]
    assert (totals(tmp_path).stored, totals(tmp_path).waiting) == (2, 0)


@pytest.mark.parametrize("step", ["stored", "acknowledged", "deleted", "page"])
def test_a_reader_that_dies_at_any_step_delivers_nothing_twice_after_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    writer = a_writer(tmp_path, segment_bytes=100)
    written = [write_call(writer) for _ in range(3)]
    reader = SpoolReader(tmp_path)
    batch = reader.read(10, ROOM)
    places = {
        "stored": "proxy.spool.journal.Journal._append",
        "acknowledged": "proxy.spool.journal.Journal.secure",
        "page": "proxy.spool.journal.Journal._write_page",
        "deleted": "proxy.spool.journal.Journal.forget",
    }
    with monkeypatch.context() as patch:
        patch.setattr(places[step], killed)
        with pytest.raises(Killed):
            reader.acknowledge(batch)
    # A dead process writes nothing more, so neither does this reader.
    for follower in reader._followers.values():
        follower._close_file()
    os.close(reader._lock)
    assert ids(recorded(tmp_path)) == (written if step == "stored" else [])
    assert (totals(tmp_path).stored, totals(tmp_path).waiting) == (3, 0)
    assert len(segment_files(tmp_path)) == 1
    writer.close()


def test_a_journal_of_a_newer_version_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("proxy.spool.segment._FIRST", first_bytes(2))
        newer = written(tmp_path, 2)
    written(tmp_path, 1)
    assert (tmp_path / slot.ACKS).read_bytes().startswith(newer)
    assert acknowledged(tmp_path) == {KEYS[0]}


def test_a_slot_without_journal_has_nothing_acknowledged(tmp_path: Path) -> None:
    assert acknowledged(tmp_path) == set()
    assert last_settled(tmp_path).revision == 0
