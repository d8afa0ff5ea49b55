"""Whatever lies in a spool's directory: writer and reader begin, record, and leave it at that.

Files that are missing, empty, cut, huge, of other kinds or modes or full of other bytes; then a
call is made, and it and all that nobody touched must be delivered. Doing it all again finds nothing
new: recovery does not go on for ever.
"""

import os
import random
import shutil
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from proxy.errors import SpoolUnusable
from proxy.spool import slot
from proxy.spool.follower import SCAN_BYTES_MAX
from proxy.spool.reader import SpoolReader
from proxy.spool.verify import verify
from tests.faults.scale import IS_FULL, left, note
from tests.spool.samples import a_start, a_writer, ids, read_all, recorded, totals, write_call

SUITE = "recovery"
TRIES = 2000
HUGE_BYTES = 2**28
PATIENCE = 2 + 3 * HUGE_BYTES // SCAN_BYTES_MAX
NAMES = (
    *("0/lock", "0/captured", "0/settled", "0/acks", "0/reserve", "0/acks.new", "0/.hidden"),
    *("0/00000001.seg", "0/00000002.seg", "0/00000009.seg", "0/99999999.seg", "0/x.seg"),
    *("0/" + "ab" * 16 + ".call", "0/0", "1", "1/acks", "7", "1023", "1024", "00", "recorder.lock"),
    "notes.txt",
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Two segments, an open call that was carried, and one call acknowledged."""
    root = tmp_path_factory.mktemp("sound")
    writer, reader = a_writer(root, segment_bytes=600), SpoolReader(root)
    start = a_start()
    assert writer.start(start)
    for number in range(6):
        writer.response(start.id, number, bytes(300))
        reader.read(0, 1)
    write_call(writer)
    reader.acknowledge(reader.read(1, 1))
    reader.close()
    write_call(writer)
    writer.close()
    return root


def disturb(root: Path, chance: random.Random) -> None:
    """Do one thing to one path."""
    path = root / chance.choice(NAMES)
    if os.path.lexists(path.parent) and not path.parent.is_dir():
        return  # what was disturbed before leaves no room for this
    path.parent.mkdir(exist_ok=True)
    what = chance.choice(
        ["gone", "empty", "cut", "bytes", "huge", "folder", "link", "pipe", "mode"]
    )
    data = path.read_bytes() if path.is_file() else b""
    if what not in ("cut", "mode"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(True)
    match what:
        case "empty":
            path.touch()
        case "cut" if data:
            path.write_bytes(data[: chance.randrange(len(data))])
        case "bytes":
            path.write_bytes(chance.randbytes(chance.choice([1, 48, 5000])))
        case "huge":
            path.touch()
            os.truncate(path, HUGE_BYTES)
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(
                chance.choice(["/dev/zero", "nowhere", ".", "../foreign", "../../foreign"])
            )
        case "pipe":
            os.mkfifo(path)
        case "mode" if path.exists() and not path.is_symlink():  # else it is the target's
            path.chmod(chance.choice([0, 0o400, 0o777]))


def test_any_directory_is_recovered_from(sound, tmp_path):
    number = left(SUITE, "directories", short=40, full=TRIES)
    foreign = tmp_path / "foreign"
    foreign.write_text("not the spool's")
    for seed in range(TRIES - number, TRIES) if IS_FULL else range(number):
        chance = random.Random(seed)
        root = tmp_path / "spool"
        shutil.copytree(sound, root)
        for _ in range(chance.randint(1, 4)):
            disturb(root, chance)
        recover(root, seed)
        assert foreign.read_text() == "not the spool's", seed
        shutil.rmtree(root)
        note(SUITE, directories=1)


def recover(root: Path, seed: int) -> None:
    """A gateway and a recorder begin here; whoever cannot says where."""
    try:
        with closing(SpoolReader(root)) as reader, closing(a_writer(root)) as writer:
            id, where = write_call(writer), root / str(writer.slot)
            found = read_patiently(reader)
    except SpoolUnusable as error:
        is_named = str(root) in str(error)
        assert is_named, seed
        return
    verify(root)
    assert totals(root).captured > 0, seed
    if is_ours(where / slot.ACKS) and is_ours(where / slot.SETTLED):
        assert id in found, seed
        assert id not in ids(recorded(root)), seed
        assert recorded(root) == [], seed
    else:
        assert id not in found, "a slot without a journal waits"


def read_patiently(reader: SpoolReader) -> list[UUID]:
    """A reader looks at so many bytes at a time, holes in files too."""
    return [id for _ in range(PATIENCE) for id in ids(read_all(reader))]


def is_ours(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
