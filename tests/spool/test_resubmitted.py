"""What was set aside and stored since: known of each slot for ever, and counted once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from proxy.errors import SpoolUnusable
from proxy.spool import slot
from proxy.spool.journal import Journal, State, acknowledged, set_aside
from proxy.spool.reader import SpoolReader
from proxy.spool.resubmitted import ResubmittedCalls
from tests.e2e.stack import ROOT

from .samples import ROOM, a_writer, ids, totals, write_call

KEYS = [bytes([n]) * 16 for n in range(1, 200)]


def quarantined(root: Path, calls: int) -> list[UUID]:
    """Calls of one slot, set aside."""
    writer = a_writer(root)
    for _ in range(calls):
        write_call(writer)
    writer.close()
    reader = SpoolReader(root)
    found = reader.read(calls, ROOM)
    reader.acknowledge(found, state="quarantined")
    reader.close()
    return ids(found)


def note(root: Path, *calls: UUID) -> None:
    with ResubmittedCalls(root) as notes:
        for id in calls:
            notes.note(id)


def counts(root: Path) -> tuple[int, int, int, int]:
    sums = totals(root)
    return sums.captured, sums.stored, sums.quarantined, sums.waiting


def test_a_call_is_counted_once_however_often_it_is_noted(tmp_path: Path) -> None:
    one, two = quarantined(tmp_path, 2)
    assert counts(tmp_path) == (2, 0, 2, 0)
    note(tmp_path, one, one)
    note(tmp_path, one)
    assert counts(tmp_path) == (2, 1, 1, 0)
    note(tmp_path, one, two)
    assert counts(tmp_path) == (2, 2, 0, 0)


def test_a_call_that_was_not_set_aside_is_not_counted(tmp_path: Path) -> None:
    quarantined(tmp_path, 1)
    note(tmp_path, UUID(int=7))
    assert counts(tmp_path) == (1, 0, 1, 0)
    assert not (tmp_path / "0" / slot.RESUBMITTED).exists()


def test_a_call_that_is_set_aside_meanwhile_is_known(tmp_path: Path) -> None:
    (one,) = quarantined(tmp_path, 1)
    with ResubmittedCalls(tmp_path) as notes:
        notes.note(one)
        (two,) = quarantined(tmp_path, 1)
        notes.note(two)
    assert counts(tmp_path) == (2, 2, 0, 0)


def test_of_a_journal_that_grows_only_what_is_new_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a resubmit beside a busy recorder reads all of it again for each call."""
    (tmp_path / "0").mkdir()
    journal, count = Journal(tmp_path / "0"), 0

    def counted(fd: int, size: int, offset: int, pread=os.pread) -> bytes:
        nonlocal count
        data = pread(fd, size, offset)
        count += len(data)
        return data

    journal.append(State.QUARANTINED, [n.to_bytes(16) for n in range(10_000)])
    with ResubmittedCalls(tmp_path) as notes:
        notes.note(UUID(int=0))
        monkeypatch.setattr(os, "pread", counted)
        for n in range(10_000, 10_010):
            journal.append(State.QUARANTINED, [n.to_bytes(16)])
            notes.note(UUID(int=n))
        assert count < 10_000
        monkeypatch.setattr(journal, "_rotate_at", 0)
        journal.append(State.STORED, [b"s" * 16])  # writes it anew
        journal.append(State.QUARANTINED, [n.to_bytes(16) for n in range(20_000, 20_002)])
        notes.note(UUID(int=20_001))
    journal.close()
    assert (tmp_path / "0" / slot.RESUBMITTED).stat().st_size == 12 * slot.ID_BYTES


def test_each_call_is_of_its_slot(tmp_path: Path) -> None:
    first, second = a_writer(tmp_path), a_writer(tmp_path)
    written = [write_call(first), write_call(second)]
    reader = SpoolReader(tmp_path)
    reader.acknowledge(reader.read(9, ROOM), state="quarantined")
    reader.close()
    note(tmp_path, *written)
    assert counts(tmp_path) == (2, 2, 0, 0)
    for number in (0, 1):
        assert (tmp_path / str(number) / slot.RESUBMITTED).stat().st_size == slot.ID_BYTES
    first.close()
    second.close()


@pytest.mark.parametrize("rest", [b"x", b"x" * 15, bytes(1), bytes(16), bytes(40)])
def test_what_a_power_cut_left_of_a_note_is_written_anew(tmp_path: Path, rest: bytes) -> None:
    one, two = quarantined(tmp_path, 2)
    note(tmp_path, one)
    file = tmp_path / "0" / slot.RESUBMITTED
    file.write_bytes(file.read_bytes() + rest)
    note(tmp_path, one, two)
    assert file.read_bytes() == one.bytes + two.bytes
    assert counts(tmp_path) == (2, 2, 0, 0)


def test_no_number_is_negative_where_the_recorder_has_lost_its_own(tmp_path: Path) -> None:
    note(tmp_path, *quarantined(tmp_path, 2))
    for name in (slot.ACKS, slot.SETTLED):
        (tmp_path / "0" / name).unlink()
    assert counts(tmp_path) == (2, 0, 0, 2)


def test_a_journal_that_is_written_anew_still_names_what_was_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.spool.journal.ROTATE_BYTES_MIN", 2000)
    journal = Journal(tmp_path)
    journal.append(State.QUARANTINED, KEYS[:2])
    for n, key in enumerate(KEYS[2:], 2):
        journal.append(State.STORED, [key])
        journal.forget(KEYS[: n - 1])
    journal.close()
    assert (tmp_path / slot.ACKS).stat().st_size < 4000
    assert set_aside(tmp_path) == set(KEYS[:2])
    assert set(KEYS[2:20]) & acknowledged(tmp_path) == set()
    journal = Journal(tmp_path)
    journal.append(State.QUARANTINED, KEYS[30:31])
    journal.close()
    assert set_aside(tmp_path) == {*KEYS[:2], KEYS[30]}


def test_a_kill_at_any_note_counts_each_call_once(tmp_path: Path) -> None:
    """A process that notes one call after the other, killed again and again."""
    calls = quarantined(tmp_path, 60)
    script = "import sys, uuid, pathlib\n"
    script += "from proxy.spool.resubmitted import ResubmittedCalls\n"
    script += "with ResubmittedCalls(pathlib.Path(sys.argv[1])) as notes:\n"
    script += "    for id in sys.argv[2:]:\n"
    script += "        notes.note(uuid.UUID(id)); print(flush=True)\n"
    for kill_after in (1, 20, 40):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), *map(str, calls)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        for _ in range(kill_after):
            process.stdout.readline()
        process.kill()
        process.communicate()
        captured, stored, quarantined_now, waiting = counts(tmp_path)
        assert (captured, stored + quarantined_now, waiting) == (60, 60, 0)
        assert stored >= kill_after
    note(tmp_path, *calls)
    assert counts(tmp_path) == (60, 60, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_note_that_root_makes_is_of_the_spools_owner(tmp_path: Path) -> None:
    (one,) = quarantined(tmp_path, 1)
    os.chown(tmp_path / "0", 65532, 65532)
    note(tmp_path, one)
    status = (tmp_path / "0" / slot.RESUBMITTED).stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65532, 65532, 0o600)


def test_a_spool_that_is_none_is_refused_and_one_that_is_not_there_is_not(tmp_path: Path) -> None:
    note(tmp_path / "none", UUID(int=7))
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolUnusable, match="Not a directory"):
        note(tmp_path / "file", UUID(int=7))
