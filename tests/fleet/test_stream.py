"""The stream on a real server: kept until acknowledged, shared, versioned, bounded."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from nats.errors import ConnectionClosedError

from proxy.errors import StreamMisconfigured, StreamUnavailable
from proxy.fleet.consumer import Consumer
from proxy.fleet.large import ORPHAN_AGE, LargeStore
from proxy.fleet.members import Members
from proxy.fleet.publisher import Publisher
from proxy.fleet.stream import check, consumer_name, ensure, set_aside_bucket
from tests.e2e.stack import until
from tests.fleet.messages import consuming, left, packed, taken, until_left
from tests.fleet.servers import Servers, connected, needs_nats, wait_for

pytestmark = needs_nats


async def test_what_exists_is_left_and_what_may_change_is_changed(connection, settings):
    assert await ensure(connection, settings) == []
    await check(connection, settings)
    larger = settings.model_copy(update={"max_bytes": settings.max_bytes * 2})
    assert await ensure(connection, larger) == [settings.stream]
    info = await connection.js.stream_info(settings.stream)
    assert info.config.max_bytes == larger.max_bytes


async def test_a_stream_of_another_kind_is_refused_by_name(connection, settings):
    other = settings.model_copy(update={"stream": "OTHER", "subject_prefix": "other"})
    await connection.js.add_stream(name="OTHER", subjects=["other.>"])
    try:
        for attempt in (ensure, check):
            with pytest.raises(StreamMisconfigured):
                await attempt(connection, other)
        with pytest.raises(StreamMisconfigured, match=r"nats\.stream: OTHER exists with retention"):
            await ensure(connection, other)
    finally:
        await connection.js.delete_stream("OTHER")


async def test_without_stream_the_remedy_is_said(connection, settings):
    missing = settings.model_copy(update={"stream": "MISSING"})
    with pytest.raises(StreamMisconfigured, match="agent-telemetry migrate"):
        await check(connection, missing)
    with pytest.raises((StreamMisconfigured, StreamUnavailable)):
        await Publisher(connection, missing).publish(packed())


async def test_too_few_servers_are_said(connection, settings):
    more = settings.model_copy(update={"stream": "R3", "subject_prefix": "r3", "replicas": 3})
    with pytest.raises(StreamMisconfigured, match=r"nats\.replicas = 3"):
        await ensure(connection, more)


async def test_a_message_that_is_sent_twice_is_there_once(connection, settings):
    publisher, message = Publisher(connection, settings), packed()
    for _ in range(3):
        await publisher.publish(message)
    assert await left(connection, settings) == 1


async def test_acknowledged_is_gone_and_the_rest_goes_to_another(connection, settings):
    publisher = Publisher(connection, settings)
    sent = [packed() for _ in range(10)]
    for each in sent:
        await publisher.publish(each)
    async with consuming(connection, settings) as first:
        found = await taken(first, 10)
        await first.acknowledge(found[:4])
        await until_left(connection, settings, 6)
    async with consuming(connection, settings) as second:
        again = await taken(second, 6)
        assert {each.id for each in again} == {each.id for each in found[4:]}
        await second.acknowledge(again)
        await until_left(connection, settings, 0)
    assert {each.id for each in found} == {each.id for each in sent}


async def test_what_is_in_hand_is_not_given_to_another_and_of_the_dead_it_is(connection, settings):
    publisher = Publisher(connection, settings)
    await publisher.publish(packed())
    dead = Consumer(connection, settings, 10)
    dead.start()
    (held,) = await taken(dead, 1)
    async with consuming(connection, settings) as other:
        began = asyncio.get_running_loop().time()

        async def long_after() -> bool:
            assert not await other.read(1, 1)
            return asyncio.get_running_loop().time() > began + 2.5 * settings.ack_wait_s

        await until(long_after, "a holder is believed to be alive")
        for task in dead._tasks:  # as if it had been killed
            task.cancel()
        (again,) = await taken(other, 1)
        assert again.id == held.id
        await other.acknowledge([again])


async def test_another_message_under_a_number_in_hand_is_taken_as_well(connection, settings):
    publisher, first, second = Publisher(connection, settings), packed(), packed()
    await publisher.publish(first)
    async with consuming(connection, settings) as consumer:
        (in_hand,) = await taken(consumer, 1)
        await connection.js.delete_stream(settings.stream)
        await ensure(connection, settings)  # which numbers from the beginning
        await publisher.publish(second)
        (other,) = await taken(consumer, 1)
        assert (other.sequence, other.id) == (in_hand.sequence, second.id)
        await consumer.acknowledge([in_hand])
        assert (await left(connection, settings), consumer.held) == (1, 1)
        await consumer.acknowledge([other])
        await until_left(connection, settings, 0)


async def test_a_reader_is_told_what_ended_the_taking(settings):
    async with connected(settings) as lost:
        await ensure(lost, settings)
        await lost.client.close()
        consumer = Consumer(lost, settings, 100)
        consumer.start()

        async def told() -> bool:
            try:
                await consumer.read(1, 1)
            except ConnectionClosedError:
                return True
            return False

        await until(told, "the reader is told")
        await consumer.close()


async def test_messages_are_shared(connection, settings):
    publisher = Publisher(connection, settings)
    async with (
        consuming(connection, settings, 5) as one,
        consuming(connection, settings, 5) as two,
    ):
        sent = [packed() for _ in range(60)]
        for each in sent:
            await publisher.publish(each)
        found: dict[str, list[UUID]] = {"one": [], "two": []}

        async def all_taken() -> bool:
            for name, consumer in (("one", one), ("two", two)):
                got = await consumer.read(5, 2**30)
                found[name] += [each.id for each in got]
                await consumer.acknowledge(got)
            return sum(map(len, found.values())) >= 60

        await until(all_taken, "all are taken")
    assert sorted(found["one"] + found["two"]) == sorted(each.id for each in sent)
    assert found["one"]
    assert found["two"]


async def test_large_exchanges_pass_and_leave_nothing_behind(connection, settings):
    publisher = Publisher(connection, settings)
    large = packed(3 * 1024 * 1024)
    await publisher.publish(large)
    await publisher.publish(packed())
    info = await connection.js.stream_info(f"OBJ_{settings.stream}_large")
    assert info.state.bytes > 3 * 1024 * 1024
    async with consuming(connection, settings) as consumer:
        found = {each.id: each for each in await taken(consumer, 2)}
        assert found[large.id].data == large.data
        await consumer.acknowledge(list(found.values()))

        async def empty() -> bool:
            info = await connection.js.stream_info(f"OBJ_{settings.stream}_large")
            return info.state.messages == 0

        await until(empty, "the object is deleted")


async def test_objects_are_those_of_the_object_store(connection, settings):
    id, data = uuid4(), bytes(300_000)
    await LargeStore(connection, settings).put(id, data)
    store = await connection.js.object_store(f"{settings.stream}_large")
    assert (await store.get(str(id))).data == data


async def test_orphans_are_swept_and_nothing_else(connection, settings):
    store, publisher = LargeStore(connection, settings), Publisher(connection, settings)
    await store.put(uuid4(), bytes(200_000))
    needed = packed(2 * 1024 * 1024)
    await publisher.publish(needed)
    assert await store.sweep() == 0  # it may still be on its way
    later = datetime.now(UTC) + ORPHAN_AGE + timedelta(seconds=1)
    assert await store.sweep(later) == 1
    assert await store.sweep(later) == 0
    async with consuming(connection, settings) as consumer:
        (found,) = await taken(consumer, 1)
        assert found.data == needed.data
        await consumer.acknowledge([found])


async def test_an_object_that_was_written_again_survives_the_deletion_of_the_first(
    connection, settings
):
    store, id = LargeStore(connection, settings), uuid4()
    await store.put(id, b"one" * 100_000)
    read = await store.get(id)
    await store.put(id, b"two" * 100_000)
    assert await store.delete(read)
    again = await store.get(id)
    assert again is not None
    assert again.data == b"two" * 100_000


async def test_a_later_version_stays_and_holds_nobody_up(connection, settings):
    """An old recorder behind a new sidecar; and a new one, which would have a consumer for it."""
    later = f"{settings.subject_prefix}.v2.call._"
    for _ in range(3):
        await connection.js.publish(later, b"what only the future can read")
    await Publisher(connection, settings).publish(packed())
    async with consuming(connection, settings) as consumer:
        await consumer.acknowledge(await taken(consumer, 1))
        await until_left(connection, settings, 3)
        assert await consumer.read(10, 10) == []
    fleet = await Members(connection, settings).read()
    assert (fleet.calls_in_stream, dict(fleet.not_known)) == (3, {"v2": 3})


async def test_what_cannot_be_read_is_set_aside_once_with_its_bytes(connection, settings):
    subject = f"{settings.subject_prefix}.v1.call._"
    id = uuid4()
    await connection.js.publish(subject, b"junk", headers={"Nats-Msg-Id": str(id)})
    await connection.js.publish(subject, b"more junk")
    await connection.js.publish(f"{subject}.{uuid4()}", b"")
    await Publisher(connection, settings).publish(packed())
    async with consuming(connection, settings) as consumer:
        await consumer.acknowledge(await taken(consumer, 1))
        await until_left(connection, settings, 0)
    bucket = await connection.js.key_value(set_aside_bucket(settings))
    entry = await bucket.get(str(id))
    assert b'"data":"anVuaw=="' in (entry.value or b"")
    assert (await Members(connection, settings).read()).set_aside == 2  # two had no id of theirs


async def test_a_socket_that_is_refused_twice_counts_once(connection, settings):
    socket = uuid4()
    for _ in range(2):
        await Publisher(connection, settings).publish(packed(socket=socket))
    await Publisher(connection, settings).publish(packed())
    async with consuming(connection, settings) as consumer:
        await consumer.set_aside(await taken(consumer, 3), "refused")
        await until_left(connection, settings, 0)
    fleet = await Members(connection, settings).read()
    assert fleet.set_aside == 2


async def test_a_full_stream_refuses_and_takes_again(connection, settings):
    small = settings.model_copy(update={"max_bytes": 1024 * 1024})
    await ensure(connection, small)
    publisher = Publisher(connection, settings)
    refused = None
    for _ in range(10):
        refused = packed(200_000)
        try:
            await publisher.publish(refused)
        except (StreamUnavailable, StreamMisconfigured):
            break
    else:
        pytest.fail("a full stream took everything")
    async with consuming(connection, settings) as consumer:
        count = await left(connection, settings)
        await consumer.acknowledge(await taken(consumer, count))
        await until_left(connection, settings, 0)
        await publisher.publish(refused)
        (found,) = await taken(consumer, 1)
        assert found.id == refused.id


async def test_a_consumer_outlives_its_server(tmp_path):
    servers = Servers(tmp_path, 1)
    async with servers.running():
        settings = servers.settings(ack_wait_s=1)
        async with (
            connected(settings) as connection,
            consuming(connection, settings) as consumer,
        ):
            publisher = Publisher(connection, settings)
            await publisher.publish(packed())
            (before,) = await taken(consumer, 1)
            servers.kill(0)
            await wait_for(lambda: not connection.is_usable, "the loss is noticed")
            await consumer.acknowledge([before])  # nobody hears it
            with pytest.raises(StreamUnavailable):
                await publisher.publish(packed())
            servers.start(0)
            await wait_for(lambda: connection.is_usable, "it is connected again")
            await publisher.publish(packed())
            seen: set[UUID] = set()

            async def both() -> bool:
                got = await consumer.read(10, 2**30)
                await consumer.acknowledge(got)
                seen.update(each.id for each in got)
                return await left(connection, settings) == 0

            await until(both, "everything is acknowledged")
            assert len(seen) >= 1
            info = await connection.js.consumer_info(settings.stream, consumer_name(1))
            assert info.num_ack_pending == 0
