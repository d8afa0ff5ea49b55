"""A whole fleet on one machine: servers of NATS, sidecars, recorders, each in its own processes.

Whoever is killed is started again, as an orchestrator would do. Every sidecar and every recorder
has a directory of its own, and knows of the others only what the stream tells.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import asyncpg

from proxy.errors import ProxyError
from proxy.fleet.members import Fleet as Reading
from proxy.fleet.members import Members
from proxy.spool.totals import Totals, read_totals, summed
from tests.database import fetched
from tests.e2e.stack import ROOT, Stack, until, until_settled
from tests.fleet.servers import Servers, connected
from tests.fleet.unrest import told


class Recorder:
    """One `recorder`, as a pod has it."""

    def __init__(self, data_dir: Path, settings: dict[str, str]) -> None:
        self.log = data_dir.with_suffix(".log")
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AGENT_TEL", "DATABASE_"))},
            "AGENT_TELEMETRY__DATA_DIR": str(data_dir),
            **{f"AGENT_TELEMETRY__{key}": value for key, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "recorder"],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, 30)


@dataclass(slots=True)
class _Seen:
    """The last look at a fleet."""

    reading: Reading | None = None
    here: Totals = field(default_factory=Totals)  # of all spools
    refusal: str = ""

    def counts(self) -> tuple[int, ...]:
        """What changes with every call that gets on; not what is merely tried again."""
        if self.reading is None:
            return ()
        said, here = self.reading, self.here
        return (here.captured, here.stored, said.captured, said.stored, said.messages_in_stream)


class Fleet:
    """Everything between the agents and one table. Use `running`."""

    def __init__(
        self, directory: Path, dsn: str, upstream: str, servers: int, sidecars: int, recorders: int
    ) -> None:
        self.dsn = dsn
        self.servers = Servers(directory / "nats", servers)
        settings = self.servers.environment(STORE__DSN=dsn, TURNS__IDLE_S="2")
        self.settings = self.servers.settings(ack_wait_s=3)
        self.sidecars = [
            Stack(directory / f"sidecar-{n}", upstream, role="gateway", **settings)
            for n in range(sidecars)
        ]
        self.recorders = [Recorder(directory / f"recorder-{n}", settings) for n in range(recorders)]

    @property
    def spools(self) -> list[Path]:
        return [each.data_dir / "spool" for each in self.sidecars]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Fleet"]:
        async with self.servers.running():
            try:
                for recorder in self.recorders:
                    recorder.start()
                for sidecar in self.sidecars:  # all at once would be slow to answer
                    await sidecar.start()
                yield self
                stopped = [each.stop() for each in (*self.sidecars, *self.recorders)]
                assert await asyncio.gather(*stopped) == [0] * len(stopped)
            finally:
                for sidecar in self.sidecars:
                    if sidecar.process is not None:
                        sidecar.process.kill()
                for recorder in self.recorders:
                    recorder.kill()

    async def until_ready(self) -> None:
        """What the ledger waits for before it compares: nothing, here."""

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        return await fetched(self.dsn, query, *arguments)

    async def reading(self) -> Reading:
        async with connected(self.settings) as connection:
            return await Members(connection, self.settings).read()

    async def until_at_rest(self) -> Reading:
        """Wait until every captured call is accounted for and nothing waits, while anything moves.

        Fails with what everybody who may hold calls says.
        """
        seen = _Seen()

        async def at_rest() -> bool:
            try:
                seen.reading = reading = await self.reading()
            except (ProxyError, TimeoutError) as error:
                seen.refusal = repr(error)
                return False
            seen.refusal = ""
            seen.here = here = summed(chain.from_iterable(map(read_totals, self.spools)))
            waiting = here.waiting + reading.waiting + reading.messages_in_stream
            return reading.captured == here.captured and not waiting

        try:
            await until_settled(at_rest, seen.counts, "the fleet is at rest")
        except AssertionError as error:
            logs = [each.log for each in (*self.sidecars, *self.recorders)]
            state = await asyncio.to_thread(told, seen.reading, self.spools, self.servers, logs)
            raise AssertionError(f"{error}\n{seen.refusal}\n{state}") from None
        assert seen.reading is not None
        return seen.reading

    async def kill_server(self, number: int) -> None:
        self.servers.kill(number)
        self.servers.start(number)
        await self._until_whole()

    async def kill_recorder(self, number: int) -> None:
        self.recorders[number].kill()
        self.recorders[number].start()

    async def kill_worker(self, number: int) -> None:
        await self.sidecars[number].kill("gateway")

    async def kill_forwarder(self, number: int) -> None:
        await self.sidecars[number].kill("forwarder")

    async def kill_sidecar(self, number: int) -> None:
        """All of it at once, as a node that fails takes its pods; its disk is there again."""
        sidecar = self.sidecars[number]
        assert sidecar.process is not None
        for pid in (
            sidecar.process.pid,
            *sidecar.processes("gateway"),
            *sidecar.processes("forwarder"),
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        sidecar.process.wait()
        await sidecar.start()

    async def _until_whole(self) -> None:
        """Wait until all servers have caught up, so that the next kill takes one of three."""

        async def whole() -> bool:
            with contextlib.suppress(Exception):
                async with connected(self.settings) as connection:
                    for name in await _streams(connection):
                        info = await connection.js.stream_info(name)
                        replicas = info.cluster.replicas if info.cluster else []
                        if not all(each.current and not each.offline for each in replicas or []):
                            return False
                return True
            return False

        await until(whole, "all servers have caught up", 60)


async def _streams(connection) -> list[str]:
    return [str(each.config.name) for each in await connection.js.streams_info()]
