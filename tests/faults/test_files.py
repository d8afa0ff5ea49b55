"""Every file operation of the spool failed, once and for good: no crash, and loss counted exactly.

A fixed sequence of calls, deliveries and acknowledgements is run once without faults to number its
operations, then once per operation and fault. Afterwards the disk is sound again: another writer
and another reader must find all that was promised and count the rest.
"""

import errno
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from proxy.errors import SpoolUnusable
from proxy.exchange import AnswerHead
from proxy.spool.reader import Delivery, SpoolReader
from proxy.spool.writer import RETRY_S, SpoolWriter
from tests.faults.files import ERRORS, SHORT, Files, possible
from tests.faults.scale import IS_FULL, figures, note
from tests.spool.samples import ROOM, Clock, a_start, a_writer, an_end, read_all, totals

SUITE = "file operations"
REQUEST, ANSWER = bytes(range(256)) * 2, (b"first " * 40, b"second " * 40)
EVERY = (
    1 if IS_FULL else 23
)  # a short form takes every so many-th operation, another for each fault


@dataclass
class Promise:
    """What the writer said it had taken of one call."""

    is_begun: bool
    request: bytes = b""
    answer: bytes = b""
    is_whole: bool = False


@dataclass
class Run:
    root: Path
    clock: Clock = field(default_factory=Clock)
    promised: dict[UUID, Promise] = field(default_factory=dict)
    delivered: dict[UUID, Delivery] = field(default_factory=dict)
    mend: Callable[[], None] = lambda: None  # a process that ends on a dead disk can tell nobody

    def go(self) -> None:
        """Two incarnations of a writer, and a reader beside them, over small segments."""
        for calls in (5, 4):
            writer = self._writer()
            if writer is not None:
                self._write(writer, calls)
                self._read(calls)
                self._write(writer, calls)
                self.mend()
                writer.close()
        self._read(ROOM)

    def settle(self) -> None:
        """On a sound disk: a writer that says the others have crashed, and a reader of all."""
        a_writer(self.root).close()
        reader = SpoolReader(self.root)
        for delivery in read_all(reader):
            self.delivered[delivery.exchange.start.id] = delivery
        reader.close()

    def _writer(self) -> SpoolWriter | None:
        try:
            return a_writer(self.root, segment_bytes=2500, sync_s=60, clock=self.clock)
        except SpoolUnusable:
            return None

    def _write(self, writer: SpoolWriter, calls: int) -> None:
        for number in range(calls):
            start = a_start()
            promise = self.promised[start.id] = Promise(writer.start(start))
            if writer.request(start.id, 1, REQUEST):
                promise.request = REQUEST
            has_head = writer.head(start.id, AnswerHead(2, 200))
            for piece in ANSWER:
                if not writer.response(start.id, 3, piece):
                    break
                promise.answer += piece
            is_ended = number % 4 == 3 or writer.end(start.id, an_end())
            is_all = promise.request + promise.answer == REQUEST + b"".join(ANSWER)
            promise.is_whole = promise.is_begun and has_head and is_ended and is_all
            self.clock.now += RETRY_S

    def _read(self, count: int) -> None:
        try:
            reader = SpoolReader(self.root)
        except SpoolUnusable:
            return
        for _ in range(3):
            batch = reader.read(count, ROOM)
            for delivery in batch:
                self.delivered[delivery.exchange.start.id] = delivery
            reader.acknowledge(batch)
        self.mend()
        reader.close()


def check(run: Run) -> None:
    begun = {id for id, promise in run.promised.items() if promise.is_begun}
    assert run.delivered.keys() == begun
    for id, delivery in run.delivered.items():
        promise, exchange = run.promised[id], delivery.exchange
        assert exchange.request == promise.request
        assert exchange.response_body == promise.answer
        if promise.is_whole:
            assert not delivery.is_damaged
    counted = totals(run.root)
    assert counted.captured == len(run.promised)
    assert counted.stored == len(begun)
    assert sum(counted.lost.values()) == len(run.promised) - len(begun)
    assert counted.waiting == counted.quarantined == 0


def operations(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    files, run = Files(), Run(tmp_path_factory.mktemp("sound"))
    with pytest.MonkeyPatch.context() as patch:
        files.install(patch)
        run.go()
    run.settle()
    check(run)
    assert len(run.promised) == 18
    return files.seen


@pytest.fixture(scope="module", autouse=True)
def small_journal():
    """So that it is written anew, beside and renamed, in every run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxy.spool.journal.ROTATE_BYTES_MIN", 300)
        yield


@pytest.fixture(scope="module")
def names(tmp_path_factory, small_journal):
    return operations(tmp_path_factory)


def test_all_kinds_of_operations_are_met(names):
    wanted = {"open", "writev", "pwrite", "unlink", "ftruncate", "fdatasync", "fsync", "pread"}
    wanted |= {"rename", "write"}
    assert wanted | {"mkdir", "posix_fallocate", "scandir", "listdir"} <= set(names)


@pytest.mark.parametrize("is_sticky", [False, True], ids=["once", "sticky"])
@pytest.mark.parametrize(
    "fault", [*ERRORS, SHORT], ids=[*map(errno.errorcode.get, ERRORS), "short"]
)
def test_a_failed_operation_loses_nothing_uncounted(names, tmp_path, fault, is_sticky):
    key = f"{errno.errorcode.get(fault, fault)} {'sticky' if is_sticky else 'once'}"
    if IS_FULL and figures().get(SUITE, {}).get(key):
        pytest.skip("done on this commit")
    first = len(key) * 7 % EVERY
    tried = 0
    for at in itertools.islice(range(len(names)), first, None, EVERY):
        if not is_sticky and not possible(names[at], fault):
            continue
        files, run = Files(fault, at, is_sticky), Run(tmp_path / str(at))
        run.mend = files.mend
        with pytest.MonkeyPatch.context() as patch:
            files.install(patch)
            run.go()
        run.settle()
        try:
            check(run)
        except AssertionError as error:
            raise AssertionError(f"operation {at}, {names[at]}, {key}") from error
        tried += 1
    assert tried
    note(SUITE, **{key: tried}, tried=tried)
