"""Gateway, spool and recorder in this process, before a real database.

For what the whole program would show too, but where a test wants to stop the recorder at a certain
place, or to have the gateway die without the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.attempts import Attempts
from proxy.config import Config
from proxy.enrich.digests import Digests
from proxy.fleet.members import Fleet, Members
from proxy.fleet.publisher import Publisher
from proxy.fleet_app import stream_source
from proxy.forwarder import Forwarder
from proxy.membership import gateway_of
from proxy.metrics import RecorderMetrics
from proxy.recorder import Recorder
from proxy.source import LocalSource, Source
from proxy.spool.totals import Totals, read_totals, summed
from proxy.spool.writer import SpoolWriter
from proxy.store.postgres import Store
from proxy.wire.server import Gateway
from tests.e2e.stack import until
from tests.fleet.servers import connected
from tests.wire.gateways import running


class Pipeline:
    """What is between an agent and the table."""

    def __init__(self, config: Config, dsn: str) -> None:
        self.config = config
        self.store = Store(dsn)
        self.gateway: Gateway | None = None
        self._work: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        assert self.gateway is not None
        host, port = self.gateway.addresses[0][:2]
        return f"http://{host}:{port}"

    @property
    def responses_url(self) -> str:
        """Where the agent opens a WebSocket of Responses."""
        return f"ws{self.address.removeprefix('http')}/openai/v1/responses"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[SpoolWriter]:
        """The gateway, on a writer of its own."""
        writer = SpoolWriter(self.config.spool_dir, max_bytes=2**30, sync_s=0.001)
        try:
            async with running(self.config, writer) as gateway:
                self.gateway = gateway
                yield writer
        finally:
            writer.close()

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        """A recorder, and a forwarder where there is a stream. Left, it stops where it is."""
        async with self._source() as source:
            recorder = Recorder(self.config, source, self.store, RecorderMetrics(), Digests(b"key"))
            self._work = asyncio.create_task(recorder.run())
            try:
                yield
            finally:
                self._work.cancel()
                await asyncio.wait({self._work})
        self._raise_failure()

    @asynccontextmanager
    async def _source(self) -> AsyncIterator[Source]:
        local = LocalSource(self.config.spool_dir, self.config.capture.max_body_bytes)
        if self.config.spool.transport == "local":
            yield local
            await local.close()
            return
        attempts = Attempts(self.config.data_dir / "attempts-forwarder")
        async with connected(self.config.nats) as connection:
            source = await stream_source(self.config)
            forwarder = Forwarder(local, Publisher(connection, self.config.nats), attempts)
            moving = asyncio.create_task(forwarder.run())
            yield source
            moving.cancel()
            await asyncio.wait({moving})
            await local.close()
            await source.close()
            if not moving.cancelled():
                moving.result()

    def _raise_failure(self) -> None:
        """A recorder that failed fails the test, now and not when its patience ends."""
        if self._work is not None and self._work.done() and not self._work.cancelled():
            self._work.result()

    async def rows(self) -> list[dict[str, Any]]:
        return await self.store.fetch("SELECT * FROM agent_telemetry ORDER BY created_at, id")

    async def until_rows(self, count: int) -> list[dict[str, Any]]:
        async def stored() -> bool:
            self._raise_failure()
            return len(await self.rows()) >= count

        await until(stored, f"{count} rows are stored")
        return await self.rows()

    def sums(self) -> Totals:
        return summed(read_totals(self.config.spool_dir))

    async def whole_sums(self) -> Totals | Fleet:
        """Of the spool, and of the stream behind it where there is one."""
        if self.config.spool.transport == "local":
            return self.sums()
        async with connected(self.config.nats) as connection:
            members = Members(connection, self.config.nats)
            await members.say(gateway_of(self.config.spool_dir)())
            return await members.read()

    async def until_settled(self) -> None:
        async def settled() -> bool:
            self._raise_failure()
            return self.sums().waiting == 0 and not await self._in_stream()

        await until(settled, "nothing waits")

    async def _in_stream(self) -> int:
        if self.config.spool.transport == "local":
            return 0
        async with connected(self.config.nats) as connection:
            return (await connection.js.stream_info(self.config.nats.stream)).state.messages


@asynccontextmanager
async def pipeline(
    directory: Path, dsn: str, upstream: str, **sections: Any
) -> AsyncIterator[Pipeline]:
    config = Config(
        data_dir=directory,
        gateway={"listen": "127.0.0.1:0", "drain_timeout_s": 0},
        upstreams={"openai": {"url": upstream}},
        **{"store": {"batch_delay_ms": 1}} | sections,
    )
    found = Pipeline(config, dsn)
    try:
        yield found
    finally:
        await found.store.close()
