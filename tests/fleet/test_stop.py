"""A process that is asked to stop ends, whatever is broken behind it."""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from proxy import membership
from proxy.config import Nats
from proxy.fleet.connection import Connection
from proxy.fleet.consumer import Consumer
from proxy.fleet.members import Members
from proxy.fleet.publisher import Publisher
from proxy.fleet.stream import ensure
from proxy.stream_source import StreamSource
from tests import database
from tests.e2e.stack import Stack, until
from tests.fleet.conversations import provider, talk
from tests.fleet.fleet import Recorder
from tests.fleet.messages import packed
from tests.fleet.servers import Servers, connected, needs_nats

pytestmark = needs_nats

OF_THE_RECORDER = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database()
    AND application_name = 'agent-telemetry' AND ($1::text IS NULL OR wait_event_type = $1)
"""


@asynccontextmanager
async def locked(dsn: str, table: str) -> AsyncIterator[asyncpg.Connection]:
    """Whoever reads or writes the table waits."""
    async with database.connected(dsn) as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {table}")
        yield connection


@asynccontextmanager
async def recording(tmp_path, dsn, servers: Servers) -> AsyncIterator[Recorder]:
    """A recorder that was just started."""
    recorder = Recorder(tmp_path / "recorder", servers.environment(STORE__DSN=dsn))
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.kill()


@contextmanager
def standing_still(pids: Iterable[int]):
    pids = list(pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def found(connection: asyncpg.Connection, waits_for: str | None) -> list[int]:
    """The recorder's connections, by the ids of their processes; once there are any."""
    pids: list[int] = []

    async def any_found() -> bool:
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        rows = await connection.fetch(OF_THE_RECORDER, waits_for)
        pids[:] = [row["pid"] for row in rows]
        return bool(pids)

    await until(any_found, "the recorder uses the database", 60)
    return pids


def parent(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


async def until_signalled(pid: int, number: int) -> None:
    """Wait until a signal lies there for a process that stands still."""

    async def lies_there() -> bool:
        pending = Path(f"/proc/{pid}/status").read_text().partition("ShdPnd:")[2].split()[0]
        return bool(int(pending, 16) >> (number - 1) & 1)

    await until(lies_there, "the signal is there", 20)


async def until_in_hand(servers: Servers) -> None:
    async def so() -> bool:
        async with connected(servers.settings()) as connection:
            reading = await Members(connection, servers.settings()).read()
            return any(each.in_hand for each in reading.recorders)

    await until(so, "a recorder has messages in hand", 60)


async def publish(servers: Servers, count: int) -> None:
    async with connected(servers.settings()) as connection:
        for _ in range(count):
            await Publisher(connection, servers.settings()).publish(packed())


@pytest.mark.parametrize("is_killed", [False, True])
async def test_servers_that_are_away_or_stand_still_are_not_waited_for(tmp_path, dsn, is_killed):
    servers = Servers(tmp_path / "nats", 3)
    async with (
        servers.running(),
        locked(dsn, "agent_telemetry"),
        recording(tmp_path, dsn, servers) as recorder,
    ):
        await publish(servers, 5)
        await until_in_hand(servers)
        with standing_still([] if is_killed else servers.pids):
            for number in range(3) if is_killed else ():
                servers.kill(number)
            assert await recorder.stop() == 0


@asynccontextmanager
async def linking(tmp_path, dsn) -> AsyncIterator[tuple[Recorder, asyncpg.Connection]]:
    """A recorder whose linker waits for a lock, and the connection that has the lock."""
    servers = Servers(tmp_path / "nats", 1)
    async with (
        servers.running(),
        locked(dsn, "agent_links") as connection,
        recording(tmp_path, dsn, servers) as recorder,
    ):
        yield recorder, connection


async def test_a_database_that_stands_still_is_not_waited_for(tmp_path, dsn):
    async with linking(tmp_path, dsn) as (recorder, connection):
        pids = await found(connection, "Lock")
        with standing_still([*pids, parent(pids[0])]):
            assert await recorder.stop() == 0


async def test_a_connection_that_is_lost_at_the_stop_does_not_keep_the_linker_going(tmp_path, dsn):
    """What rolls its transaction back fails, and takes the place of the cancellation."""
    async with linking(tmp_path, dsn) as (recorder, connection):
        (pid,) = await found(connection, "Lock")
        with standing_still([pid]):
            stopping = asyncio.create_task(recorder.stop())
            await until_signalled(pid, signal.SIGINT)  # the linker was cancelled
            await connection.execute("SELECT pg_terminate_backend($1)", pid)
        assert await stopping == 0


async def test_a_sidecar_does_not_wait_for_servers_that_stand_still(tmp_path):
    servers = Servers(tmp_path / "nats", 1)
    async with (
        servers.running(),
        provider() as upstream,
        Stack(tmp_path / "sidecar", upstream, role="gateway", **servers.environment()) as sidecar,
    ):
        await until_connected(servers, "agent-telemetry forwarder")
        with standing_still(servers.pids):
            await talk([sidecar.url], 3)
            assert await sidecar.stop() == 0
        assert "killing it" not in sidecar.log_text()


async def test_a_server_that_never_answers_is_not_waited_for_at_the_start(tmp_path, dsn):
    servers = Servers(tmp_path / "nats", 1)
    with socket.create_server(("127.0.0.1", servers.ports[0])) as listener:
        async with recording(tmp_path, dsn, servers) as recorder:
            await asyncio.to_thread(select.select, [listener], [], [], 60)
            assert await recorder.stop() == 0


async def test_a_database_that_never_answers_is_not_waited_for_at_the_start(tmp_path, dsn):
    servers = Servers(tmp_path / "nats", 1)
    async with database.connected(dsn) as connection, servers.running():
        own = connection.get_server_pid()
        with standing_still([parent(own)]):
            async with recording(tmp_path, dsn, servers) as recorder:
                await until_connected(servers, "agent-telemetry recorder")
                assert await recorder.stop() == 0


async def until_connected(servers: Servers, name: str) -> None:

    async def so() -> bool:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{servers.monitors[0]}/connz") as answer,
        ):
            found = (await answer.json())["connections"]
        return name in [each.get("name") for each in found]

    await until(so, f"{name} is connected", 60)


async def test_an_answer_in_the_moment_of_the_stop_does_not_keep_it_going(nats, monkeypatch):
    """The client's own wait drops a cancellation that comes with the answer (Python 3.11)."""
    monkeypatch.setattr(membership, "LOOK_S", 0.0)
    monkeypatch.setattr(membership, "REPEAT_S", -1.0)  # something is asked all the time
    settings = Nats(**nats)
    for turns in range(12):  # of the loop, between the answer's arrival and the stop
        connection = await Connection.open(settings, "test")
        await ensure(connection, settings)
        consumer = Consumer(connection, settings, 10)
        source = StreamSource(connection, consumer, Members(connection, settings))
        sent = connection.client.stats["out_msgs"]
        await source.read(1, 1)

        async def asked(sent=sent, connection=connection) -> bool:
            return connection.client.stats["out_msgs"] > sent + 10

        await until(asked, "it speaks", 20)
        await _answered(connection)
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await source.close()


async def _answered(connection: Connection) -> None:
    """Wait until an answer has arrived that the loop has not seen."""
    stats = connection.client.stats
    asked = stats["out_msgs"]
    while stats["out_msgs"] == asked:
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # it is sent
    writer = connection.client._transport._io_writer
    select.select([writer.get_extra_info("socket").fileno()], [], [], 20)


STUBBORN = """
import asyncio, threading
from pathlib import Path
from proxy import stopping
from proxy.config import Config
from proxy.running import run

stopping.STOP_S = 0.5

async def role():
    stop = stopping.stop_event(None)
    print("ready", flush=True)
    await stop.wait()
    await asyncio.to_thread(threading.Event().wait)

run(Config(data_dir=Path()), role)
"""


def test_what_cannot_end_is_ended_and_says_where_it_stood():
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.terminate()
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    (line,) = map(json.loads, said.splitlines())
    assert (process.returncode, line["event"]) == (1, "stop took too long; ended")
    assert any("at to_thread:" in each for each in line["tasks"])
    assert any("at wait:" in each for each in line["threads"])
