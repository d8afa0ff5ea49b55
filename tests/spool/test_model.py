"""The spool against a plain model: nothing lost, nothing doubled, the identity after every step.

Every step is one that real processes take: calls in any interleaving over two slots, a reader that
acknowledges some of what it has, and either side gone at any moment.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from proxy.spool.reader import Delivery, SpoolReader
from proxy.spool.verify import verify
from proxy.spool.writer import SpoolWriter

from .samples import ROOM, Clock, a_start, a_writer, an_end, totals


class ModelCall:
    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.request = b""
        self.response: list[bytes] = []
        self.state = "open"  # then ended or crashed, then stored, quarantined or discarded

    @property
    def is_due(self) -> bool:
        return self.state in ("ended", "crashed")


class Spool(RuleBasedStateMachine):
    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        self.model: dict[UUID, ModelCall] = {}
        self.writers: dict[int, SpoolWriter] = {}
        self.clock = Clock()
        self.in_hand: list[Delivery] = []
        self.lost_full = 0

    @initialize(segment_bytes=st.sampled_from([1, 700, 3000, 2**20]))
    def begin(self, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.reader = SpoolReader(self.root)
        self.open_writer()

    def open_writer(self) -> None:
        writer = a_writer(
            self.root, segment_bytes=self.segment_bytes, clock=self.clock, segment_s=10.0
        )
        assert writer.slot not in self.writers
        assert writer.slot == min({0, 1, 2} - set(self.writers))
        self.writers[writer.slot] = writer

    @precondition(lambda self: len(self.writers) < 2)
    @rule()
    def writer_begins(self) -> None:
        self.open_writer()

    @precondition(lambda self: self.writers)
    @rule(data=st.data())
    def writer_is_killed(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.writers)))
        self.writers.pop(number).close()  # leaves the same bytes as kill -9: all are written
        for call in self.model.values():
            if call.slot == number and call.state == "open":
                call.state = "crashed"

    @precondition(lambda self: self.writers)
    @rule(target=calls, data=st.data())
    def start(self, data: st.DataObject) -> UUID:
        number = data.draw(st.sampled_from(sorted(self.writers)))
        start = a_start()
        assert self.writers[number].start(start)
        self.model[start.id] = ModelCall(number)
        return start.id

    @rule(id=calls, data=st.binary(max_size=900))
    def request(self, id: UUID, data: bytes) -> None:
        if self.model[id].state == "open":
            assert self.writers[self.model[id].slot].request(id, 1, data)
            self.model[id].request += data

    @rule(id=calls, data=st.binary(max_size=900))
    def response(self, id: UUID, data: bytes) -> None:
        if self.model[id].state == "open":
            assert self.writers[self.model[id].slot].response(id, 2, data)
            self.model[id].response.append(data)

    @rule(id=consumes(calls))
    def end(self, id: UUID) -> None:
        if self.model[id].state == "open":
            assert self.writers[self.model[id].slot].end(id, an_end())
            self.model[id].state = "ended"

    @rule(seconds=st.sampled_from([1, 11]))
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(calls_max=st.integers(1, 4), bytes_max=st.sampled_from([1, 1000, ROOM]))
    def read(self, calls_max: int, bytes_max: int) -> None:
        batch = self.reader.read(calls_max, bytes_max)
        assert len(batch) <= calls_max
        for delivery in batch:
            id = delivery.exchange.start.id
            call = self.model[id]
            assert call.is_due
            assert delivery.slot == call.slot
            assert not delivery.is_damaged
            assert delivery.exchange.request == call.request
            assert [piece.data for piece in delivery.exchange.response] == call.response
            assert (delivery.exchange.end is not None) == (call.state == "ended")
            assert id not in {held.exchange.start.id for held in self.in_hand}
            self.in_hand.append(delivery)

    @rule()
    def read_everything(self) -> None:
        """Whatever has ended or crashed comes, without waiting for anything else to happen."""
        before = -1
        while len(self.in_hand) > before:
            before = len(self.in_hand)
            self.read(10, ROOM)
        due = {id for id, call in self.model.items() if call.is_due}
        assert {delivery.exchange.start.id for delivery in self.in_hand} == due

    @precondition(lambda self: self.in_hand)
    @rule(
        which=st.sets(st.integers(0, 20)),
        state=st.sampled_from(["stored", "stored", "quarantined", "lost"]),
    )
    def acknowledge(self, which: set[int], state: str) -> None:
        chosen = [d for n, d in enumerate(self.in_hand) if n in which]
        self.reader.acknowledge(chosen, state)  # type: ignore[arg-type]  # drawn from its literals
        for delivery in chosen:
            self.model[delivery.exchange.start.id].state = state
        self.in_hand = [d for d in self.in_hand if d not in chosen]

    @rule(is_killed=st.booleans())
    def reader_begins_anew(self, is_killed: bool) -> None:
        if is_killed:
            kill(self.reader)
        else:
            self.reader.close()
        self.reader = SpoolReader(self.root)
        self.in_hand = []

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        states = [call.state for call in self.model.values()]
        counted = totals(self.root)
        assert counted.captured == len(states)
        assert counted.stored == states.count("stored")
        assert counted.quarantined == states.count("quarantined")
        assert counted.lost["discarded"] == states.count("lost") == sum(counted.lost.values())
        assert counted.waiting == sum(state in ("open", "ended", "crashed") for state in states)
        assert (counted.damaged, counted.torn) == (0, 0)

    @invariant()
    def an_independent_look_agrees(self) -> None:
        for check in verify(self.root):
            assert check.is_consistent
            assert check.unnoticed == 0
            assert not check.problems

    def teardown(self) -> None:
        with suppress(AttributeError):  # not begun
            self.finish()
        self.directory.cleanup()

    def finish(self) -> None:
        """In the end everything is delivered, and the disk is free again."""
        for number, writer in self.writers.items():
            writer.close()
            for call in self.model.values():
                if call.slot == number and call.state == "open":
                    call.state = "crashed"
        self.reader.close()
        self.reader = SpoolReader(self.root)
        self.in_hand = []
        due = {id for id, call in self.model.items() if call.is_due}
        found: set[UUID] = set()
        while batch := self.reader.read(10, ROOM):
            found |= {delivery.exchange.start.id for delivery in batch}
            self.reader.acknowledge(batch)
        assert found == due
        assert totals(self.root).waiting == 0
        for slot in self.root.glob("[0-9]"):
            assert len(list(slot.glob("*.seg"))) == 1
        self.reader.close()


def kill(reader: SpoolReader) -> None:
    """Give back what the kernel would of a killed process, writing nothing more."""
    for follower in reader._followers.values():
        follower._close_file()
        os.close(follower._journal._fd)
        os.close(follower._journal._page._fd)
    os.close(reader._lock)


Spool.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSpool = Spool.TestCase
