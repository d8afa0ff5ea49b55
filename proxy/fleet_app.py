"""Fleet app: builds what moves calls between machines. Like `app`, no logic of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from proxy import membership
from proxy.attempts import Attempts
from proxy.config import Config
from proxy.errors import StreamMisconfigured, StreamUnavailable
from proxy.fleet.connection import Connection
from proxy.fleet.consumer import Consumer
from proxy.fleet.members import Fleet, Members
from proxy.fleet.publisher import Publisher
from proxy.fleet.stream import check, ensure
from proxy.forwarder import Forwarder
from proxy.log import event
from proxy.source import LocalSource
from proxy.stopping import stop_event, until_stopped
from proxy.stream_source import StreamSource
from proxy.tasks import end

FLUSH_S = 5.0  # how long a forwarder that is asked to stop works on what is in the spool
_NAME = "agent-telemetry"


async def forwarder(config: Config, lifeline: int | None) -> None:
    """Move calls from the spool to the stream until asked to stop.

    Raises StreamUnavailable where the connection is over for good; whoever started this process
    starts it again.
    """
    stop = stop_event(lifeline)
    source = await until_stopped(stop, lambda: _local(config), "forwarder")
    if source is None:
        return
    connection = await until_stopped(stop, lambda: _connected(config, "forwarder"), "forwarder")
    if connection is None:
        await source.close()
        return
    members = Members(connection, config.nats)
    gateway = membership.gateway_of(config.spool_dir)
    attempts = Attempts(config.data_dir / "attempts-forwarder")
    moving = Forwarder(source, Publisher(connection, config.nats), attempts)
    work = asyncio.create_task(moving.run(), name="forwarder")
    speaking = asyncio.create_task(membership.speak(members, gateway), name="members")
    ends = [asyncio.create_task(each.wait(), name="end") for each in (stop, connection.over)]
    await asyncio.wait({work, *ends}, return_when=asyncio.FIRST_COMPLETED)
    moving.stop()
    await asyncio.wait({work}, timeout=FLUSH_S if connection.is_usable else 0)
    await end((work, speaking, *ends))
    if connection.is_usable:
        await membership.say_at_last(members, gateway())
    await source.close()
    await _closed(connection)
    if work.done() and not work.cancelled() and (error := work.exception()):
        raise error


async def stream_source(config: Config) -> StreamSource:
    """What a recorder takes its calls from. Raises StreamUnavailable or StreamMisconfigured."""
    connection = await _connected(config, "recorder")
    try:
        if config.store.migrate:
            await _made(connection, config)
        else:
            await check(connection, config.nats)
    except BaseException:
        await connection.close()
        raise
    consumer = Consumer(connection, config.nats, ahead_max=config.store.batch_rows)
    return StreamSource(connection, consumer, Members(connection, config.nats))


async def make_stream(config: Config) -> list[str]:
    """Make and check what has to be on the servers; returns the names of what was changed."""
    connection = await _connected(config, "migrate")
    try:
        return await _made(connection, config)
    finally:
        await connection.close()


async def read_fleet(config: Config) -> Fleet:
    """All gateways and recorders, and the stream between them, now."""
    connection = await _connected(config, "status")
    try:
        return await Members(connection, config.nats).read()
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def members_of(config: Config) -> AsyncIterator[Members]:
    """The fleet's bucket, for a command."""
    connection = await _connected(config, "command")
    try:
        yield Members(connection, config.nats)
    finally:
        await connection.close()


class FleetReader:
    """Reads the fleet again and again over one connection, for the admin listener."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._connection: Connection | None = None
        self._one_at_a_time = asyncio.Lock()

    async def read(self) -> Fleet | None:
        """The fleet now; None where NATS does not answer."""
        try:
            async with self._one_at_a_time:
                if self._connection is None or self._connection.over.is_set():
                    self._connection = await _connected(self._config, "admin")
                if not self._connection.is_usable:
                    return None
                return await Members(self._connection, self._config.nats).read()
        except (StreamUnavailable, StreamMisconfigured):
            return None

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()


async def _local(config: Config) -> LocalSource:
    return LocalSource(config.spool_dir, config.capture.max_body_bytes)


async def _connected(config: Config, role: str) -> Connection:
    return await Connection.open(config.nats, f"{_NAME} {role}")


async def _made(connection: Connection, config: Config) -> list[str]:
    done = await ensure(connection, config.nats)
    for name in done:
        event("stream made", name=name)
    return done


async def _closed(connection: Connection) -> None:
    """Close; a connection that ended by itself is an error."""
    is_over = connection.over.is_set()
    await connection.close()
    if is_over:
        raise StreamUnavailable("NATS: the connection was refused or given up")
