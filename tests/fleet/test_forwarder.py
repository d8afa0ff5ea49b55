"""The forwarder alone: what it gives up, and what it never acknowledges too early."""

import asyncio
from collections.abc import Sequence

import pytest

from proxy.attempts import TRIES_MAX, Attempts
from proxy.errors import StreamUnavailable
from proxy.fleet.message import Message
from proxy.fleet.publisher import Packed
from proxy.forwarder import WINDOW_CALLS, Forwarder
from proxy.source import LocalSource
from proxy.spool.totals import read_totals, summed
from tests.e2e.stack import until
from tests.spool.samples import a_writer, an_end, write_call
from tests.spool.test_sockets import begin, say


class Outbox:
    """A stream that takes what it is told to take."""

    def __init__(self, refused: Sequence[int] = ()) -> None:
        self.taken: list[Packed] = []
        self.refused = set(refused)  # by the order of the first try
        self.tried: list = []

    async def publish(self, packed: Packed) -> None:
        if packed.id not in self.tried:
            self.tried.append(packed.id)
        if self.tried.index(packed.id) in self.refused:
            raise StreamUnavailable("not now")
        self.taken.append(packed)


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


def forwarder(spool, outbox, attempts=None) -> Forwarder:
    attempts = attempts or Attempts(spool.parent / "attempts")
    return Forwarder(LocalSource(spool, 2**20), outbox, attempts)


async def stopped(moving: Forwarder, work: asyncio.Task) -> None:
    work.cancel()
    await asyncio.wait({work})
    await moving._source.close()


async def test_one_that_is_refused_holds_up_no_other_and_stays_in_the_spool(spool):
    writer = a_writer(spool)
    for _ in range(WINDOW_CALLS + 50):
        write_call(writer)
    outbox = Outbox(refused=[0, 7])
    moving = forwarder(spool, outbox)
    work = asyncio.create_task(moving.run())

    async def others_taken() -> bool:
        return summed(read_totals(spool)).stored == WINDOW_CALLS + 48

    await until(others_taken, "the others are taken")
    assert summed(read_totals(spool)).waiting == 2
    outbox.refused.clear()

    async def all_taken() -> bool:
        return summed(read_totals(spool)).waiting == 0

    await until(all_taken, "all are taken")
    moving.stop()
    await work
    writer.close()
    assert len({packed.id for packed in outbox.taken}) == WINDOW_CALLS + 50
    await moving._source.close()


async def test_what_ends_the_forwarder_is_sent_without_its_bodies_at_last(spool):
    writer = a_writer(spool)
    id = write_call(writer)
    page = spool.parent / "attempts"
    for _ in range(TRIES_MAX):  # three processes that died with it in hand
        dead = Attempts(page)
        with pytest.raises(MemoryError), dead.at(id):
            raise MemoryError
    outbox = Outbox()
    moving = forwarder(spool, outbox, Attempts(page))
    work = asyncio.create_task(moving.run())
    await until(lambda: _has(outbox, 1), "it is sent")
    await stopped(moving, work)
    writer.close()
    message = Message.from_bytes(outbox.taken[0].data)
    assert (message.exchange.request, message.exchange.response) == (b"", ())
    assert message.exchange.start.id == id
    assert "ended the forwarder" in message.problems[0]


async def _has(outbox: Outbox, count: int) -> bool:
    return len(outbox.taken) >= count


@pytest.mark.parametrize("is_refused", [False, True])
async def test_a_socket_is_settled_when_all_its_parts_are_whatever_the_order(spool, is_refused):
    writer, source = a_writer(spool), LocalSource(spool, 2**20)
    id = begin(writer)
    say(writer, id, [(True, b"ask")])
    (first,) = await source.read(10, 2**20)
    say(writer, id, [(False, b"answer")])
    writer.end(id, an_end())
    (last,) = await source.read(10, 2**20)
    await source.acknowledge([last])
    assert summed(read_totals(spool)).waiting == 1
    await source.acknowledge(*([], [first]) if is_refused else ([first],))
    sums = summed(read_totals(spool))
    assert (sums.waiting, sums.stored, sums.quarantined) == (0, not is_refused, is_refused)
    writer.close()
    await source.close()
