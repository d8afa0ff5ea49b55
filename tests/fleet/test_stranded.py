"""Messages that a server holds again though they were acknowledged: nobody is given them."""

import asyncio
import os
import shutil
import signal
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import pytest
from nats.js.api import ConsumerInfo

from proxy.config import Nats
from proxy.fleet import connection as connecting
from proxy.fleet import consumer as consumer_module
from proxy.fleet.publisher import Publisher
from proxy.fleet.received import Received
from proxy.fleet.stranded import Stranded, settled_to
from proxy.fleet.stream import ensure, set_aside_bucket
from tests.e2e.stack import until
from tests.fleet.messages import consuming, left, packed, taken, until_left
from tests.fleet.servers import Servers, connected, needs_nats

pytestmark = needs_nats

SIZES = 10, 2 * 1024 * 1024  # the second goes through the object store


@pytest.fixture
def looks_often(monkeypatch):
    monkeypatch.setattr(consumer_module, "STRANDED_S", 0.2)


@asynccontextmanager
async def consumer_of(settings):
    async with connected(settings) as connection, consuming(connection, settings) as consumer:
        yield connection, consumer


def ended(servers: Servers) -> None:
    """By itself, so that it has written what it knows."""
    os.kill(servers.pids[0], signal.SIGTERM)
    os.waitid(os.P_PID, servers.pids[0], os.WEXITED | os.WNOWAIT)
    servers.kill(0)


async def sent(settings, sizes) -> set:
    async with connected(settings) as connection:
        await ensure(connection, settings)
        messages = [packed(size) for size in sizes]
        for each in messages:
            await Publisher(connection, settings).publish(each)
    return {each.id for each in messages}


async def until_answering(servers: Servers, settings) -> None:
    servers.start(0)
    await servers.until_ready(ack_wait_s=settings.ack_wait_s)


async def come_back(servers: Servers, settings, size: int) -> set:
    """A message that was acknowledged is in the stream again; returns its id."""
    messages = servers.directory / "0/store/jetstream/$G/streams" / settings.stream / "msgs"
    older = servers.directory / "older"
    ids = await sent(settings, [size])
    ended(servers)
    shutil.copytree(messages, older)
    await until_answering(servers, settings)
    async with consumer_of(settings) as (connection, consumer):
        await consumer.acknowledge(await taken(consumer, 1))
        await until_left(connection, settings, 0)
    ended(servers)
    shutil.rmtree(messages)
    shutil.move(older, messages)
    await until_answering(servers, settings)
    return ids


@pytest.mark.parametrize("size", SIZES)
async def test_what_came_back_is_taken_once_more_and_deleted(tmp_path, looks_often, size):
    servers = Servers(tmp_path, 1)
    settings = servers.settings(ack_wait_s=1)
    async with servers.running():
        ids = await come_back(servers, settings, size)
        async with consumer_of(settings) as (connection, consumer):
            again = set()

            async def gone() -> bool:
                found = await consumer.read(10, 2**30)
                again.update(each.id for each in found)
                await consumer.acknowledge(found)
                return await left(connection, settings) == 0

            await until(gone, "nothing is left", 20)
            assert again <= ids
            assert consumer.held == 0
            aside = await connection.js.stream_info(f"KV_{set_aside_bucket(settings)}")
            assert aside.state.messages == 0


async def test_what_came_back_is_fetched_once_while_it_is_in_hand(tmp_path, looks_often):
    """As while the database is away."""
    size, looks = 100_000, 10
    servers = Servers(tmp_path, 1)
    settings = servers.settings(ack_wait_s=1)
    async with servers.running():
        await come_back(servers, settings, size)
        async with consumer_of(settings) as (connection, consumer):
            (held,) = await taken(consumer, 1)
            stats, loop = connection.client.stats, asyncio.get_running_loop()
            before, began = stats["in_bytes"], loop.time()

            async def long_after() -> bool:
                assert stats["in_bytes"] < before + size, "it was fetched again"
                return loop.time() > began + looks * consumer_module.STRANDED_S

            await until(long_after, "ten looks are due")
            await consumer.acknowledge([held])
            await until_left(connection, settings, 0)


async def test_a_refused_look_is_said_once(nats, looks_often, caplog):
    settings = Nats(**nats)
    await sent(settings, [])
    async with consumer_of(settings) as (connection, _):
        await connection.js.delete_stream(settings.stream)
        loop = asyncio.get_running_loop()

        def said() -> list:
            return [each for each in caplog.records if each.message == "stranded not looked for"]

        async def is_said() -> bool:
            return bool(said())

        await until(is_said, "the refusal is said", 20)
        began = loop.time()

        async def long_after() -> bool:
            return loop.time() > began + 5 * consumer_module.STRANDED_S

        await until(long_after, "five more looks are due")
        (line,) = said()
        assert "agent-telemetry migrate" in line.fields["reason"]


async def test_what_waits_or_is_in_hand_is_not_stranded(nats):
    settings = Nats(**nats)
    await sent(settings, [10] * 3)
    async with connected(settings) as connection:
        stranded = Stranded(connection, settings)
        assert [await stranded.look() for _ in range(2)] == [[], []]  # they wait
        async with consumer_of(settings) as (_, consumer):
            found = await taken(consumer, 3)
            assert [await stranded.look() for _ in range(2)] == [[], []]
            await consumer.acknowledge(found[1:])  # what came before is still in hand
            await until_left(connection, settings, 1)
            assert [await stranded.look() for _ in range(2)] == [[], []]
            await consumer.acknowledge(found[:1])
            await until_left(connection, settings, 0)
            assert [await stranded.look() for _ in range(2)] == [[], []]


async def test_another_message_under_the_number_is_not_deleted(nats):
    settings = Nats(**nats)
    await sent(settings, [10])
    async with connected(settings) as connection:
        message = await connection.js.get_msg(settings.stream, 1, subject="*.>", next=True)
        found = Received.found(message)
        stranded = Stranded(connection, settings)
        await stranded.delete([replace(found, id=uuid4())])
        assert await left(connection, settings) == 1
        await stranded.delete([found])
        assert await left(connection, settings) == 0


async def test_an_outage_is_waited_for_once_and_not_for_each(tmp_path, monkeypatch):
    monkeypatch.setattr(connecting, "ANSWER_S", 1.0)
    servers = Servers(tmp_path, 1)
    settings = servers.settings(ack_wait_s=1)
    async with servers.running(), connected(settings) as connection:
        await ensure(connection, settings)
        found = [Received(uuid4(), n, "", "", 0.0, b"") for n in range(1, 41)]
        await Stranded(connection, settings).delete(found)  # others did so before
        servers.kill(0)
        async with asyncio.timeout(20):
            await Stranded(connection, settings).delete(found)


@pytest.mark.parametrize(
    ("in_stream", "in_hand", "settled"),
    [(0, 0, 7061), (1, 0, 7060), (0, 2, 7058), (1, 2, 7058)],
)
def test_where_servers_count_differently_the_newest_is_not_forgotten(in_stream, in_hand, settled):
    """The stream's leader called a message 7061 that the consumer's server had given as 7060."""
    info = {
        "name": "recorders-v1",
        "stream_name": "AGENT_TELEMETRY",
        "config": {},
        "created": "2026-11-26T13:15:51Z",
        "delivered": {"consumer_seq": 9561, "stream_seq": 7060},
        "ack_floor": {"consumer_seq": 9561 - in_hand, "stream_seq": 7060 - in_hand},
        "num_pending": in_stream,
        "num_ack_pending": in_hand,
        "num_redelivered": 0,
        "num_waiting": 3,
    }
    assert settled_to(ConsumerInfo.from_response(info), 7061) == settled
