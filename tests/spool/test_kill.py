"""Real processes, really killed: what was appended is read back."""

from __future__ import annotations

import os
import random
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from proxy.spool.reader import SpoolReader
from proxy.spool.writer import RETRY_S, SpoolWriter

from .samples import (
    ROOM,
    Clock,
    a_start,
    a_writer,
    an_end,
    body,
    ids,
    read_all,
    recorded,
    segment_files,
    totals,
    write_call,
)

RUNS = 20
REPOSITORY = Path(__file__).parents[2]

# Writes calls without end; says on stdout what the writer has taken: "s" begun, "e" ended.
WRITE = """
import sys
from pathlib import Path
from tests.spool.samples import a_start, a_writer, an_end
writer = a_writer(Path(sys.argv[1]), segment_bytes=int(sys.argv[2]))
out = sys.stdout
n = 0
while True:
    start = a_start()
    n += 1
    if writer.start(start):
        out.write(f"s {start.id}\\n"); out.flush()
        writer.request(start.id, 1, bytes([n % 251]) * (n * 37 % 5000))
        if writer.response(start.id, 2, start.id.bytes * 20) and n % 5:
            if writer.end(start.id, an_end()):
                out.write(f"e {start.id}\\n"); out.flush()
    else:
        out.write(f"l {start.id}\\n"); out.flush()
"""

WRITE_GUARDED = WRITE.replace(
    "writer = a_writer(", "from proxy.spool.stall import StallGuard\nwriter = StallGuard(a_writer("
).replace("int(sys.argv[2]))", "int(sys.argv[2]), sync_s=0.02))")

# Acknowledges what it reads, batch by batch; says what it has acknowledged.
READ = """
import sys
from pathlib import Path
from proxy.spool.reader import SpoolReader
from proxy.spool.writer import SpoolWriter
reader = SpoolReader(Path(sys.argv[1]))
out = sys.stdout
while True:
    for delivery in (batch := reader.read(7, 2**30)):
        out.write(f"d {delivery.exchange.start.id}\\n")
    out.flush()
    reader.acknowledge(batch)
    for delivery in batch:
        out.write(f"a {delivery.exchange.start.id}\\n")
    out.flush()
"""


def run(program: str, *arguments: object, **limits: int) -> subprocess.Popen[bytes]:
    def limit() -> None:
        if "file_bytes" in limits:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"],) * 2)

    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        bufsize=0,
        cwd=REPOSITORY,
        preexec_fn=limit if limits else None,
    )


def killed_after(process: subprocess.Popen[bytes], lines: int) -> list[tuple[str, UUID]]:
    """Kill -9 once it has said that many lines; all that it had said until then."""
    assert process.stdout is not None
    said = b""
    while said.count(b"\n") < lines:
        ready, _, _ = select.select([process.stdout], [], [], 30)
        assert ready, "the process says nothing"
        chunk = os.read(process.stdout.fileno(), 65_536)
        assert chunk, "the process ended by itself"
        said += chunk
    process.send_signal(signal.SIGKILL)
    said += process.stdout.read()
    process.stdout.close()
    process.wait()
    whole = said[: said.rfind(b"\n")].decode().split("\n")
    return [(line[0], UUID(line[2:])) for line in whole]


def test_a_killed_writer_loses_nothing_it_had_appended(tmp_path: Path) -> None:
    chance = random.Random(1)
    begun: list[UUID] = []
    ended: list[UUID] = []
    found = []
    for _ in range(RUNS):
        writer = run(WRITE, tmp_path, chance.choice([2000, 20_000, 2**26]))
        said = killed_after(writer, chance.randrange(1, 120))
        begun += [id for what, id in said if what == "s"]
        ended += [id for what, id in said if what == "e"]
        if chance.random() < 0.5:
            found += recorded(tmp_path)
    found += recorded(tmp_path)
    delivered = {delivery.exchange.start.id: delivery.exchange for delivery in found}
    assert len(delivered) == len(found)
    # The last append of each run may have been made without being said.
    assert set(begun) <= set(delivered)
    assert len(delivered) <= len(begun) + RUNS
    assert all(delivered[id].end is not None for id in ended)
    assert sum(exchange.end is not None for exchange in delivered.values()) <= len(ended) + RUNS
    assert all(body(delivered[id])[1] == id.bytes * 20 for id in ended)
    assert not any(delivery.is_damaged for delivery in found)
    # A kill between a START and its count leaves it uncounted until the next writer finds it.
    SpoolWriter(tmp_path, max_bytes=2**30).close()
    counted = totals(tmp_path)
    assert counted.captured == counted.stored == len(delivered)
    assert (counted.damaged, sum(counted.lost.values())) == (0, 0)


def test_a_busy_machine_loses_nothing_to_a_kill(tmp_path: Path) -> None:
    """What a disk that stands still would leave in memory is on the disk that does not."""
    writers = [run(WRITE_GUARDED, tmp_path, 2**26) for _ in range(3)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline()
    hogs = [run("while True: pass") for _ in range(8 * (os.cpu_count() or 1))]
    try:
        said = [line for writer in writers for line in killed_after(writer, 600)]
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
            assert hog.stdout is not None
            hog.stdout.close()
    delivered = {d.exchange.start.id: d.exchange for d in recorded(tmp_path)}
    assert {id for what, id in said if what == "s"} <= set(delivered)
    assert all(delivered[id].end is not None for what, id in said if what == "e")


def test_reader_and_writer_killed_at_random_agree_in_the_end(tmp_path: Path) -> None:
    chance = random.Random(2)
    begun: set[UUID] = set()
    acknowledged: set[UUID] = set()
    for _ in range(8):
        writer = run(WRITE, tmp_path, 8000)
        reader = run(READ, tmp_path)
        said = killed_after(reader, chance.randrange(1, 150))
        acknowledged |= {id for what, id in said if what == "a"}
        begun |= {id for what, id in killed_after(writer, 1) if what == "s"}
    rest = ids(recorded(tmp_path))
    assert not acknowledged & set(rest)
    counted = totals(tmp_path)
    assert counted.waiting == 0
    assert sum(counted.lost.values()) == 0
    assert counted.captured == counted.stored
    assert len(begun) <= counted.stored <= len(begun) + 8
    assert len(segment_files(tmp_path)) == 1


@pytest.mark.parametrize("file_bytes", [5000, 20_000])
def test_a_file_size_limit_loses_no_call_silently(tmp_path: Path, file_bytes: int) -> None:
    """Like a full disk: a short write first, then an error; in a new file there is room again."""
    writer = run(WRITE, tmp_path, 2**26, file_bytes=file_bytes)
    said = killed_after(writer, 400)
    begun = {id for what, id in said if what == "s"}
    lost = {id for what, id in said if what == "l"}
    assert lost
    found = recorded(tmp_path)
    assert begun <= set(ids(found))
    counted = totals(tmp_path)
    assert counted.waiting == 0
    assert counted.lost["disk_full"] >= len(lost)
    assert counted.captured == counted.stored + counted.lost["disk_full"]
    assert counted.stored == len(found) == len(set(ids(found)))
    assert counted.lost["damaged"] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_counted_and_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, clock = os.writev, Clock()
    with open("/dev/full", "wb", buffering=0) as full:
        writer = a_writer(tmp_path, clock=clock)
        before = write_call(writer)
        open_call = open_call_of(writer)
        with monkeypatch.context() as patch:
            patch.setattr(os, "writev", lambda fd, parts: real(full.fileno(), parts))
            assert not writer.start(a_start())
            assert not writer.response(open_call, 3, b"cut")
            assert not writer.end(open_call, an_end())
        clock.now += RETRY_S
        after = write_call(writer)
    writer.close()
    found = recorded(tmp_path)
    assert ids(found) == [before, open_call, after]
    assert found[1].exchange.end == an_end()
    counted = totals(tmp_path)
    assert (counted.lost["disk_full"], counted.truncated, counted.waiting) == (1, 1, 0)
    assert len(segment_files(tmp_path)) == 1


def open_call_of(writer: SpoolWriter) -> UUID:
    start = a_start()
    assert writer.start(start)
    return start.id


def test_three_writers_two_killed_their_slots_are_taken_over(tmp_path: Path) -> None:
    processes = [run(WRITE, tmp_path, 2**26) for _ in range(3)]
    said = [killed_after(process, 20) for process in processes[:2]]
    third = processes[2]
    assert third.stdout is not None
    assert third.stdout.readline()
    writers = [a_writer(tmp_path), a_writer(tmp_path)]
    reader = SpoolReader(tmp_path)
    found = ids(reader.read(30, ROOM))
    said.append(killed_after(third, 1))
    found += ids(read_all(reader))
    written = [write_call(writer) for writer in writers]
    found += ids(reader.read(10, ROOM))
    begun = {id for lines in said for what, id in lines if what == "s"}
    assert begun <= set(found)
    assert set(written) <= set(found)
    assert len(set(found)) == len(found)
    reader.close()
    for writer in writers:
        writer.close()
