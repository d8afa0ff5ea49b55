"""The power is cut at any moment: what was synced is there again, nothing is made up.

A fixed sequence of calls, syncs, deliveries and acknowledgements is noted change by change
(`disk`); then the spool is recovered from states that a cut may have left.
"""

import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from proxy.exchange import AnswerHead
from proxy.spool.reader import SpoolReader
from tests.faults.disk import Disk
from tests.faults.scale import IS_FULL, left, note
from tests.spool.samples import (
    ROOM,
    Clock,
    a_start,
    a_writer,
    an_end,
    body,
    read_all,
    recorded,
    totals,
)

SUITE = "power cuts"
STATES, NOTED = 20_000, 500
REQUEST, ANSWER = b"ask " * 30, (b"yes " * 40, b"sir " * 40)
ROUNDS = 6


@dataclass
class Day:
    """What happened when, counted in changes of the disk."""

    disk: Disk
    began: list[UUID] = field(default_factory=list)
    safe_from: dict[UUID, int] = field(default_factory=dict)  # synced, its end too
    settled_from: dict[UUID, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    disk = Disk(tmp_path_factory.mktemp("sound"))
    day = Day(disk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxy.spool.journal.ROTATE_BYTES_MIN", 400)
        disk.install(patch)
        live(day)
    assert {change.what for change in disk.changes} >= {"create", "unlink", "rename", "sync"}
    assert any(change.name.endswith(".call") for change in disk.changes)
    return day


def live(day: Day) -> None:
    writer = a_writer(day.disk.root, segment_bytes=1500, sync_s=3600, clock=Clock())
    reader = SpoolReader(day.disk.root)
    long = a_start()
    writer.start(long)
    day.began.append(long.id)
    for _ in range(ROUNDS):
        ended = []
        for _ in range(3):
            start = a_start()
            writer.start(start)
            day.began.append(start.id)
            writer.request(start.id, 1, REQUEST)
            writer.head(start.id, AnswerHead(2, 200))
            for piece in ANSWER:
                writer.response(start.id, 3, piece)
                writer.response(long.id, 3, piece)
            writer.end(start.id, an_end())
            ended.append(start.id)
        batch = reader.read(2, ROOM)
        writer.sync._sync_all()  # as its thread does, at a moment that is always the same
        day.safe_from |= dict.fromkeys(ended, len(day.disk.changes))
        day.settled_from |= dict.fromkeys((d.id for d in batch), len(day.disk.changes))
        reader.acknowledge(batch)
    writer.close()
    reader.close()


def test_what_was_synced_survives_a_power_cut(day, tmp_path, monkeypatch):
    for name in ("fsync", "fdatasync"):  # nothing is cut a second time
        monkeypatch.setattr(os, name, lambda fd: None)
    states = left(SUITE, "states", short=100, full=STATES)
    first = STATES - states if IS_FULL else 0
    for seed in range(first, first + states):
        chance = random.Random(seed)
        at = chance.randint(0, len(day.disk.changes))
        root = tmp_path / "spool"
        root.mkdir()
        day.disk.cut(at, chance, root)
        recover(day, at, root, seed)
        shutil.rmtree(root)
        if (seed + 1) % NOTED == 0:
            note(SUITE, states=NOTED)


def recover(day: Day, at: int, root: Path, seed: int) -> None:
    a_writer(root).close()
    reader = SpoolReader(root)
    batch = read_all(reader)
    reader.close()
    found = {delivery.id: delivery for delivery in batch}
    assert len(found) == len(batch), seed
    assert found.keys() <= set(day.began), seed
    owed = {id for id, n in day.safe_from.items() if n <= at < day.settled_from.get(id, at + 1)}
    for id in owed:
        assert body(found[id].exchange) == (REQUEST, b"".join(ANSWER)), seed
        assert not found[id].is_damaged, seed
    for id, delivery in found.items():
        if id != day.began[0] and not delivery.is_damaged and delivery.exchange.end is not None:
            assert body(delivery.exchange) == (REQUEST, b"".join(ANSWER)), seed
    assert recorded(root) == [], seed
    assert totals(root).waiting == 0, seed
