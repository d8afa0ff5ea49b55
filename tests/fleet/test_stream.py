"""The stream on a real server: kept until acknowledged, shared, versioned, bounded, guarded."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import trustme
from nats.errors import ConnectionClosedError

from proxy.config import Config, Nats
from proxy.doctor import examined
from proxy.errors import ConfigError, StreamMisconfigured, StreamUnavailable
from proxy.exchange import Exchange, Start
from proxy.fleet import connection as connecting
from proxy.fleet import departed
from proxy.fleet.connection import Connection, validate
from proxy.fleet.consumer import Consumer
from proxy.fleet.large import ORPHAN_AGE, LargeStore
from proxy.fleet.member import GATEWAY, Member
from proxy.fleet.members import Members
from proxy.fleet.message import Message
from proxy.fleet.publisher import Packed, Publisher
from proxy.fleet.received import Received
from proxy.fleet.stream import check, consumer_name, ensure, set_aside_bucket
from tests.e2e.stack import until
from tests.fleet.servers import Servers, connected, needs_nats, wait_for

pytestmark = needs_nats


def packed(size_bytes: int = 10, **more) -> Packed:
    id = uuid4()
    start = Start(id, 0, "openai", "openai", "responses", "POST", "/", **more)
    # What cannot be compressed, so that the size is what travels.
    body = b"".join(uuid4().bytes for _ in range(-(-size_bytes // 16)))
    is_part = start.socket is not None
    return Packed(id, start.labels.project, is_part, Message(Exchange(start, body)).to_bytes())


@pytest.fixture
def impatient(monkeypatch):
    """Nobody who will be refused has to be waited for."""
    monkeypatch.setattr(connecting, "CONNECT_S", 1.0)


@pytest.fixture
def settings(nats):
    return Nats(**nats)


@pytest.fixture
async def connection(settings):
    async with connected(settings) as found:
        await ensure(found, settings)
        yield found


@contextlib.asynccontextmanager
async def consuming(connection, settings, ahead_max=100):
    consumer = Consumer(connection, settings, ahead_max)
    consumer.start()
    try:
        yield consumer
    finally:
        await consumer.close()


async def taken(consumer, count: int) -> list[Received]:
    """The next messages, so many."""
    found: list[Received] = []

    async def enough() -> bool:
        found.extend(await consumer.read(count - len(found), 2**30))
        return len(found) >= count

    await until(enough, f"{count} messages arrive")
    return found


async def left(connection, settings) -> int:
    return (await connection.js.stream_info(settings.stream)).state.messages


async def until_left(connection, settings, count: int) -> None:
    async def so() -> bool:
        return await left(connection, settings) == count

    await until(so, f"{count} messages are left")


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


async def test_members_speak_and_are_added_up(connection, settings):
    members = Members(connection, settings)
    assert (await members.read()).members == ()
    now = datetime.now(UTC)
    for id, forwarded in (("a", 5), ("b", 7)):
        for captured in (1, 10):  # the last word counts
            member = Member(
                GATEWAY,
                id,
                "h",
                "1",
                now,
                captured,
                forwarded,
                1,
                {"damaged": 1},
                oldest_waiting_at=now,
            )
            await members.say(member)
    await members.say(Member("recorder", "r", "h", "1", now - timedelta(minutes=5), stored=3))
    await Publisher(connection, settings).publish(packed())
    fleet = await members.read()
    assert [(m.role, m.is_silent) for m in fleet.members] == [
        ("gateway", False),
        ("gateway", False),
        ("recorder", True),
    ]
    assert (fleet.captured, fleet.stored, fleet.quarantined) == (20, 11, 2)
    assert (fleet.lost, fleet.waiting) == ({"damaged": 2}, 5)
    assert fleet.oldest_waiting_at == now
    await members.leave(fleet.recorders[0])
    assert (await members.read()).recorders == []


async def test_the_doctor_names_who_is_silent_and_what_is_too_new(
    connection, settings, nats, tmp_path, dsn
):
    sections = {"spool": {"transport": "nats"}, "nats": nats, "store": {"dsn": dsn}}
    config, since = Config(data_dir=tmp_path, **sections), datetime.now(UTC)
    assert await examined(config, since) == []
    silent = since - timedelta(hours=1)
    await Members(connection, settings).say(Member(GATEWAY, "a", "h", "1", silent, 5, 3))
    await connection.js.publish(f"{settings.subject_prefix}.v2.call._", b"")
    found = {each.name: each.calls for each in await examined(config, since)}
    assert found == {"silent members": 2, "newer messages": 1}
    away = config.model_copy(update={"nats": Nats(servers=("nats://127.0.0.1:1",))})
    (finding,) = await examined(away, since)
    assert (finding.name, "127.0.0.1:1" in finding.remedy) == ("fleet", True)


async def test_gateways_that_are_gone_count_and_are_shown_no_more(connection, settings):
    members, now = Members(connection, settings), datetime.now(UTC)
    long_ago = now - timedelta(days=2)
    await members.say(Member(GATEWAY, "here", "h", "1", now, 10, 8))
    await members.say(Member(GATEWAY, "gone", "h", "1", long_ago, 100, 90, 1, {"damaged": 2}))
    assert (await members.read()).waiting == 2 + 7
    assert await members.depart(now) == 1
    assert await members.depart(now) == 0
    fleet = await members.read()
    assert [each.id for each in fleet.members] == ["here"]
    assert (fleet.captured, fleet.stored, fleet.quarantined) == (110, 98, 1)
    assert (fleet.lost, fleet.waiting) == ({"damaged": 2, "gone": 7}, 2)
    # It comes back after all, speaks, and is counted as itself: once, at every moment.
    await members.say(Member(GATEWAY, "gone", "h", "1", now, 101, 90, 1, {"damaged": 2}))
    assert (await members.read()).captured == 110
    await members.come_back("gone")
    fleet = await members.read()
    assert (fleet.captured, fleet.lost, fleet.waiting) == (111, {"damaged": 2}, 2 + 8)
    await members.come_back("gone")


async def test_of_two_that_clear_away_one_does(connection, settings, monkeypatch):
    members, now = Members(connection, settings), datetime.now(UTC)
    for id in "abc":
        await members.say(Member(GATEWAY, id, "h", "1", now - timedelta(days=2), 5, 5))
    done = await asyncio.gather(*(Members(connection, settings).depart(now) for _ in range(5)))
    assert max(done) == 3
    assert (await members.read()).captured == 15


def test_of_those_gone_longest_only_the_sums_are_kept(monkeypatch):
    monkeypatch.setattr(departed, "KNOWN_MAX", 2)
    gone = departed.Departed()
    for number in range(5):
        lost = {"damaged": 1}
        member = Member(GATEWAY, str(number), "h", "1", datetime.now(UTC), 10, 5, 1, lost)
        gone = gone.with_more([member])
    again = departed.Departed.from_bytes(gone.to_bytes(), 7)
    assert list(again.known) == ["3", "4"]
    assert sum(each.captured for each in again.members) == 50
    assert sum(each.lost["gone"] for each in again.members) == 15
    assert not any(each.waiting for each in again.members)


def test_a_member_of_a_later_version_is_understood_as_far_as_possible():
    member = Member(GATEWAY, "a", "h", "9", datetime.now(UTC), captured=3)
    later = member.to_bytes()[:-1] + b',"new":{"x":1}}'
    assert Member.from_bytes(later) == member
    assert Member.from_bytes(b"[]") is None


@pytest.fixture
def certificates(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("server", "client"):
        made = authority.issue_cert("127.0.0.1", "localhost")
        made.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        made.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    return tmp_path


async def test_servers_are_known_by_their_certificate_and_know_ours(certificates: Path, impatient):
    tls = (
        f'tls {{ cert_file: "{certificates}/server.pem", key_file: "{certificates}/server.key", '
        f'ca_file: "{certificates}/ca.pem", verify: true }}'
    )
    own = {
        "ca_file": certificates / "ca.pem",
        "cert_file": certificates / "client.pem",
        "key_file": certificates / "client.key",
    }
    servers = Servers(certificates / "nats", 1, tls)
    servers.start(0)
    try:
        await servers.until_ready(**own)
        async with connected(servers.settings(**own)) as connection:
            await Publisher(connection, servers.settings()).publish(packed())
        for wrong in ({}, {"ca_file": own["ca_file"]}):
            with pytest.raises((StreamUnavailable, StreamMisconfigured)):
                await Connection.open(servers.settings(**wrong), "test")
    finally:
        servers.kill(0)


@pytest.mark.parametrize(
    ("guard", "right", "wrong"),
    [
        (
            'authorization { user: "me", password: "let me in" }',
            {"user": "me", "password": "let me in"},
            {"user": "me", "password": "no"},
        ),
        ('authorization { token: "t0ken" }', {"token": "t0ken"}, {"token": "no"}),
    ],
)
async def test_credentials_are_shown_and_a_refusal_is_told(
    tmp_path, guard, right, wrong, impatient
):
    servers = Servers(tmp_path, 1, guard)
    servers.start(0)
    try:
        await servers.until_ready(**right)
        for given in (wrong, {}):
            with pytest.raises(StreamMisconfigured, match=r"(?i)authorization"):
                await Connection.open(servers.settings(**given), "test")
    finally:
        servers.kill(0)


def test_a_certificate_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nats\.ca_file"):
        validate(Nats(ca_file=tmp_path / "none.pem"))


async def test_where_nobody_answers_it_is_said_in_time(impatient):
    with pytest.raises(StreamUnavailable, match=r"127\.0\.0\.1:1"):
        await Connection.open(Nats(servers=("nats://127.0.0.1:1",)), "test")


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
