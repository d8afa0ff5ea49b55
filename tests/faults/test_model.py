"""The spool against a plain model on a bad day: crashes, full disks, damage, a second instance.

The model believes what the writer returns: what was taken must come back, whole and once, and what
was refused must be counted. A damaged record may cost its own call, and no other. Beside
`tests/spool/test_model.py`, where the disk is sound and every result is exact.
"""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from proxy.errors import SpoolUnusable
from proxy.spool.reader import Delivery, SpoolReader
from proxy.spool.segment import Found, Kind, header_bytes
from proxy.spool.segment_file import open_segment, walk
from proxy.spool.slot import segments
from proxy.spool.writer import RETRY_S, SpoolWriter
from tests.faults.scale import left, note
from tests.spool.samples import ROOM, Clock, a_start, a_writer, an_end, totals
from tests.spool.test_model import kill

SUITE = "spool model"
STEPS = 100
SEQUENCES, SEQUENCES_AT_ONCE = 2000, 100


@dataclass
class Call:
    slot: int
    request: bytes = b""
    response: list[bytes] = field(default_factory=list)
    state: str = "open"  # then ended or crashed, then stored, quarantined or lost
    is_owed: bool = False  # its end was refused: it may have been written since
    is_hurt: bool = False  # a record of it was damaged
    before: str = ""  # the state in which it was acknowledged
    is_again: bool = False  # the journal never had that: segments with its rest may be gone

    @property
    def is_due(self) -> bool:
        return self.state in ("ended", "crashed")


class BadDay(RuleBasedStateMachine):
    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        self.model: dict[UUID, Call] = {}
        self.refused = 0
        self.writers: dict[int, SpoolWriter] = {}
        self.clock = Clock()
        self.in_hand: dict[UUID, Delivery] = {}
        self.is_full = False
        self.patch = pytest.MonkeyPatch()
        real_writev, real_pwrite = os.writev, os.pwrite

        def writev(fd: int, parts: object) -> int:
            self.fail_if_full()
            return real_writev(fd, parts)  # type: ignore[arg-type]  # as it came

        def pwrite(fd: int, data: bytes, offset: int) -> int:
            if offset:  # pages are written in place, at 0, and take no room
                self.fail_if_full()
            return real_pwrite(fd, data, offset)

        self.patch.setattr(os, "writev", writev)
        self.patch.setattr(os, "pwrite", pwrite)

    def fail_if_full(self) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")

    @initialize(segment_bytes=st.sampled_from([1, 700, 3000, 2**20]))
    def begin(self, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.reader = SpoolReader(self.root)
        self.open_writer()

    def open_writer(self) -> None:
        writer = a_writer(self.root, segment_bytes=self.segment_bytes, clock=self.clock)
        assert writer.slot not in self.writers
        self.writers[writer.slot] = writer

    # The gateways.

    @precondition(lambda self: len(self.writers) < 2)
    @rule()
    def writer_begins(self) -> None:
        self.open_writer()

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), torn_bytes=st.integers(0, 300))
    def writer_is_killed(self, data: st.DataObject, torn_bytes: int) -> None:
        """Between two appends, or in the middle of one."""
        number = data.draw(st.sampled_from(sorted(self.writers)))
        writer = self.writers.pop(number)
        opened = [
            id for id, call in self.model.items() if (call.slot, call.state) == (number, "open")
        ]
        newest = segments(self.root / str(number))[-1:]
        kill_writer(writer)
        if opened and newest and not self.is_full:
            tear(self.root / str(number) / f"{newest[0]:08}.seg", opened[0], torn_bytes)
        for id in opened:
            self.model[id].state = "crashed"

    @precondition(lambda self: self.writers)
    @rule(target=calls, data=st.data())
    def start(self, data: st.DataObject) -> UUID:
        number = data.draw(st.sampled_from(sorted(self.writers)))
        start = a_start()
        if self.writers[number].start(start):
            self.model[start.id] = Call(number)
        else:
            assert self.was_full
            self.refused += 1
        return start.id

    @rule(id=calls, data=st.binary(min_size=1, max_size=900))
    def request(self, id: UUID, data: bytes) -> None:
        call = self.model.get(id)
        if call and call.state == "open" and self.writers[call.slot].request(id, 1, data):
            call.request += data

    @rule(id=calls, data=st.binary(min_size=1, max_size=900))
    def response(self, id: UUID, data: bytes) -> None:
        call = self.model.get(id)
        if call and call.state == "open" and self.writers[call.slot].response(id, 2, data):
            call.response.append(data)

    @rule(id=consumes(calls))
    def end(self, id: UUID) -> None:
        call = self.model.get(id)
        if call and call.state == "open":
            call.is_owed = not self.writers[call.slot].end(id, an_end())
            call.state = "ended"

    # The world.

    was_full = False

    @rule()
    def disk_is_full(self) -> None:
        self.is_full = self.was_full = True

    @precondition(lambda self: self.is_full)
    @rule()
    def disk_has_room(self) -> None:
        self.is_full = False
        self.clock.now += RETRY_S

    @rule(seconds=st.sampled_from([1, 11]))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(data=st.data())
    def a_bit_rots(self, data: st.DataObject) -> None:
        """In any record but a BOOT, whose loss only delays the news of a crash."""
        places = [
            (path, item)
            for path in sorted(self.root.glob("[0-9]/*.seg"))
            for item in records(path)
            if item.header.kind != Kind.BOOT
        ]
        if not places:
            return
        path, item = data.draw(st.sampled_from(places))
        offset = data.draw(st.integers(item.offset, item.end - 1))
        bit = 1 << data.draw(st.integers(0, 7))
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0] ^ bit
            file.seek(offset)
            file.write(bytes((byte,)))
        if (call := self.model.get(UUID(bytes=item.header.key))) is not None:
            call.is_hurt = True

    @rule()
    def a_second_recorder_begins(self) -> None:
        with pytest.raises(SpoolUnusable):
            SpoolReader(self.root)

    # The recorder.

    @rule(calls_max=st.integers(1, 4), bytes_max=st.sampled_from([1, 1000, ROOM]))
    def read(self, calls_max: int, bytes_max: int) -> None:
        self.read_batch(calls_max, bytes_max)

    def read_batch(self, calls_max: int, bytes_max: int) -> int:
        batch = self.reader.read(calls_max, bytes_max)
        assert len(batch) <= calls_max
        for delivery in batch:
            self.check(delivery)
            self.in_hand[delivery.id] = delivery
        return len(batch)

    def check(self, delivery: Delivery) -> None:
        assert delivery.id not in self.in_hand
        call, exchange = self.model[delivery.id], delivery.exchange
        assert call.is_due or (call.is_owed and call.state == "crashed")
        assert delivery.slot == call.slot
        if call.is_hurt or call.is_again:
            return
        assert not delivery.is_damaged
        assert exchange.request == call.request
        assert [piece.data for piece in exchange.response] == call.response
        if not call.is_owed:
            assert (exchange.end is not None) == (call.state == "ended")

    @rule()
    def read_everything(self) -> None:
        while self.read_batch(10, ROOM):
            pass
        due = {id for id, call in self.model.items() if call.is_due}
        exact = {id for id in due if self.is_known(self.model[id])}
        assert exact <= self.in_hand.keys() <= due

    def is_known(self, call: Call) -> bool:
        """Whether a reader can tell by now that the call is over, and hand it over."""
        writer = self.writers.get(call.slot)
        is_news_due = call.state == "crashed" and writer is not None and writer._is_boot_due
        return not (call.is_hurt or call.is_owed or is_news_due)

    @precondition(lambda self: self.in_hand)
    @rule(
        which=st.sets(st.integers(0, 20)),
        state=st.sampled_from(["stored", "stored", "quarantined", "lost"]),
    )
    def acknowledge(self, which: set[int], state: str) -> None:
        chosen = [d for n, d in enumerate(self.in_hand.values()) if n in which]
        self.reader.acknowledge(chosen, state)  # type: ignore[arg-type]  # drawn from its literals
        for delivery in chosen:
            call = self.model[delivery.id]
            call.before, call.state = call.state, state
            del self.in_hand[delivery.id]

    @rule(is_killed=st.booleans())
    def reader_begins_anew(self, is_killed: bool) -> None:
        """What the journal owes dies with the reader, and is delivered again."""
        owed = [
            UUID(bytes=entry.key)
            for follower in self.reader._followers.values()
            for entry in follower._journal._owed
            if is_killed or self.is_full
        ]
        kill(self.reader) if is_killed else self.reader.close()
        self.reader = SpoolReader(self.root)
        self.in_hand = {}
        for id in owed:
            call = self.model[id]
            call.state = call.before or call.state  # the reader itself gives up what has rotted
            call.is_again = True

    @invariant()
    def all_is_counted(self) -> None:
        states = [call.state for call in self.model.values()]
        hurt = sum(call.is_hurt for call in self.model.values())
        counted = totals(self.root)
        assert counted.captured == len(states) + self.refused
        assert counted.lost["disk_full"] == self.refused
        assert counted.lost["damaged"] <= hurt
        assert counted.waiting >= 0
        if any(follower._journal.is_behind for follower in self.reader._followers.values()):
            return  # what the disk refused is not counted before the journal can say whose it is
        assert counted.stored == states.count("stored")
        assert counted.quarantined == states.count("quarantined")
        assert counted.lost["discarded"] == states.count("lost")

    def teardown(self) -> None:
        if hasattr(self, "reader"):
            self.finish()
        self.patch.undo()
        self.directory.cleanup()

    def finish(self) -> None:
        """On a sound disk again: everything is delivered or counted."""
        self.is_full = False
        self.clock.now += RETRY_S
        for number, writer in self.writers.items():
            writer.close()
            for call in self.model.values():
                if (call.slot, call.state) == (number, "open"):
                    call.state = "crashed"
        while self.read_batch(10, ROOM):
            pass
        self.reader.acknowledge(list(self.in_hand.values()))
        self.reader.close()
        again = [a_writer(self.root) for _ in range(3)]  # whose BOOT tells of lost beginnings
        for writer in again:
            writer.close()
        self.reader = SpoolReader(self.root)
        while batch := self.reader.read(10, ROOM):
            for delivery in batch:
                self.check(delivery)
            self.in_hand |= {delivery.id: delivery for delivery in batch}
            self.reader.acknowledge(batch)
        self.reader.close()
        due = {id for id, call in self.model.items() if call.is_due}
        lost = due - self.in_hand.keys()
        assert all(self.model[id].is_hurt for id in lost)
        counted = totals(self.root)
        assert counted.waiting == 0
        assert counted.lost["damaged"] == len(lost)


def kill_writer(writer: SpoolWriter) -> None:
    """Give back what the kernel would of a killed process, writing nothing more."""
    if writer._fd is not None:
        writer.sync.retire(writer._fd)
    writer.sync.close()
    os.close(writer._reserve._fd)
    os.close(writer._page._fd)
    os.close(writer._lock)


def tear(path: Path, id: UUID, size: int) -> None:
    """What is left of an append in whose middle its process died."""
    payload = bytes(200)
    record = header_bytes(Kind.RESPONSE, id.bytes, payload, part=10**6, number=9) + payload
    with open(path, "ab") as file:
        file.write(record[: min(size, len(record) - 1)])


def records(path: Path) -> list[Found]:
    with open_segment(path.parent, int(path.stem)) as file:
        return [item for item in walk(file.fileno()) if isinstance(item, Found) and item.is_good]


def test_nothing_that_was_taken_is_lost_and_nothing_comes_twice():
    wanted = left(SUITE, "sequences", short=25, full=SEQUENCES)
    while wanted > 0:
        count = min(wanted, SEQUENCES_AT_ONCE)
        run_state_machine_as_test(
            seed(SEQUENCES - wanted)(BadDay),
            settings=settings(
                max_examples=count,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
        note(SUITE, sequences=count, actions_max=STEPS)
        wanted -= count
