"""A segment hurt in every way that a disk can: cut at each length, a bit flipped anywhere."""

import random
import shutil
from pathlib import Path
from uuid import UUID

import pytest

from proxy.spool.reader import SpoolReader
from proxy.spool.segment import Found, Kind, scan
from tests.faults.scale import IS_FULL, figures, note
from tests.spool.samples import a_writer, body, read_all, segment_files, totals, write_call

SUITE = "corruption"
FLIPS = 5000 if IS_FULL else 150
CUT_EVERY = 1 if IS_FULL else 41
CALLS = 6
WHOLE = (b"ask" * 50, b"yes" * 50 + b"sir" * 50)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A spool with some calls in one segment, its bytes, and its records."""
    root = tmp_path_factory.mktemp("sound")
    writer = a_writer(root)
    for _ in range(CALLS):
        write_call(writer, WHOLE[0], (b"yes" * 50, b"sir" * 50))
    writer.close()
    (path,) = segment_files(root)
    data = path.read_bytes()
    return root, data, [item for item in scan(data) if isinstance(item, Found)]


def read_with(root: Path, target: Path, data: bytes) -> dict[UUID, tuple[bool, tuple]]:
    """What a recorder finds where the segment holds these bytes, and its writer comes back.

    By id: whether it says that something is missing, and the bodies.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(root, target)
    segment_files(target)[0].write_bytes(data)
    a_writer(target).close()
    reader = SpoolReader(target)
    found = {
        d.id: (d.is_damaged or d.exchange.end is None, body(d.exchange)) for d in read_all(reader)
    }
    reader.close()
    counted = totals(target)
    assert counted.captured == CALLS
    assert counted.stored == len(found)
    assert counted.lost["damaged"] == CALLS - len(found)
    assert counted.waiting == 0
    return found


def keys(records: list[Found]) -> set[UUID]:
    return {UUID(bytes=item.header.key) for item in records if item.header.kind != Kind.BOOT}


def test_any_cut_leaves_what_lies_before_it_whole(sound, tmp_path):
    root, data, records = sound
    if IS_FULL and figures().get(SUITE, {}).get("cuts"):
        pytest.skip("done on this commit")
    lengths = range(0, len(data), CUT_EVERY)
    for length in lengths:
        found = read_with(root, tmp_path / "cut", data[:length])
        hurt = keys([item for item in records if item.end > length])
        whole = keys(records) - hurt
        assert {id: found[id] for id in whole} == dict.fromkeys(whole, (False, WHOLE)), length
        assert all(WHOLE[0].startswith(found[id][1][0]) for id in found), length
    note(SUITE, cuts=len(lengths))


def test_any_flipped_bit_costs_one_call_at_most(sound, tmp_path):
    root, data, records = sound
    done = int(figures().get(SUITE, {}).get("flips", 0)) if IS_FULL else 0
    for number in range(done, FLIPS):
        chance = random.Random(number)
        at, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        hurt_data = data[:at] + bytes((data[at] ^ bit,)) + data[at + 1 :]
        found = read_with(root, tmp_path / "flip", hurt_data)
        hurt = keys([item for item in records if item.offset <= at < item.end])
        whole = keys(records) - hurt
        assert len(hurt) <= 1
        assert {id: found[id] for id in whole} == dict.fromkeys(whole, (False, WHOLE)), (at, bit)
        assert all(found[id][0] for id in hurt & found.keys()), (at, bit)
    note(SUITE, flips=FLIPS - done)
