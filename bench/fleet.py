"""What JetStream between gateway and row costs, and how recorders add up.

    python -m bench.fleet [CALLS] [ROUNDS]

Each round moves the same calls three ways, in turn: from a spool to one recorder on the same
machine; through a forwarder and three servers of NATS to one recorder; and to two. Processor time
is that of each process from /proc, after all have started and been idle, divided by calls. Then
calls are made one at a time, and the time until the row can be read is taken, both ways. All of
it runs on one machine, so the times hold for its processors, and the ratios for others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from proxy.config import Config
from proxy.exchange import AnswerHead, End, Exchange, Labels, Outcome, Piece, Start
from proxy.fleet.message import Message
from proxy.linker import Linker
from proxy.spool.totals import read_totals, summed
from proxy.spool.writer import SpoolWriter
from proxy.store.embedded import EmbeddedServer
from proxy.store.links import LinkStore
from proxy.store.migrate import migrate
from proxy.wire.tap import mint_id
from tests.e2e.provider import events
from tests.e2e.stack import ROOT, until
from tests.fleet.servers import Servers

CALLS, ROUNDS, LATENCY_CALLS = 1000, 3, 60
TICKS = os.sysconf("SC_CLK_TCK")
SETTLE_S = 3.0
WORDS = (
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "nobody",
    "looks",
)


def exchange(number: int) -> Exchange:
    """A call with a history of 10 KB and a streamed answer; no two have a text in common."""
    at_ns = time.time_ns()
    history = [
        {"role": role, "content": f"{number} {turn} " + _text(number * 31 + turn, 1200)}
        for turn in range(4)
        for role in ("user", "assistant")
    ]
    request = {
        "model": "scripted-1",
        "stream": True,
        "messages": [*history, {"role": "user", "content": f"call {number}"}],
    }
    answer = tuple(Piece(1000 + at, each) for at, each in enumerate(events(f"call {number}")))
    body = json.dumps(request).encode()
    size = sum(len(piece.data) for piece in answer)
    return Exchange(
        Start(
            mint_id(at_ns),
            at_ns,
            "openai",
            "openai",
            "chat.completions",
            "POST",
            "/v1/chat/completions",
            headers=(("content-type", "application/json"), ("user-agent", "bench")),
            labels=Labels(session=f"session {number}", session_source="label"),
        ),
        body,
        AnswerHead(900, 200, (("content-type", "text/event-stream"),)),
        answer,
        End(
            5000,
            Outcome.COMPLETE,
            request_bytes=len(body),
            response_bytes=size,
            request_kept=len(body),
            response_kept=size,
        ),
    )


def _text(seed: int, length: int) -> str:
    drawn = random.Random(seed)
    words: list[str] = []
    while sum(map(len, words)) + len(words) < length:
        words.append(drawn.choice(WORDS) if drawn.random() < 0.8 else f"{drawn.random():.6f}")
    return " ".join(words)


def write(writer: SpoolWriter, call: Exchange) -> UUID:
    start = call.start
    assert call.head is not None
    assert call.end is not None
    writer.start(start)
    writer.request(start.id, 1, call.request)
    writer.head(start.id, call.head)
    for piece in call.response:
        writer.response(start.id, piece.at_us, piece.data)
    writer.end(start.id, call.end)
    return start.id


def cpu_s(pid: int, *, with_ended_children: bool = False) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    counted = fields[11:15] if with_ended_children else fields[11:13]
    return sum(map(int, counted)) / TICKS


def database_cpu_s(directory: Path) -> float:
    """Of the server and all its processes, those that have ended included."""
    (file,) = directory.rglob("postmaster.pid")
    server = int(file.read_text().split()[0])
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    total = cpu_s(server, with_ended_children=True)
    for pid in map(int, children):
        with contextlib.suppress(OSError):
            total += cpu_s(pid)
    return total


class Stand:
    """A spool, and the processes that move what is written into it to a database of its own."""

    def __init__(
        self, directory: Path, dsn: str, servers: Servers | None, recorders: int, **more: str
    ) -> None:
        self.directory = directory
        self.database = directory.parent / "pg"
        self.dsn = dsn
        settings = {"STORE__DSN": dsn, "LOG__LEVEL": "warning", "DATA_DIR": str(directory)}
        settings |= more
        if servers is not None:
            settings |= servers.environment(
                NATS__STREAM=directory.name, NATS__SUBJECT_PREFIX=directory.name
            )
        self._environment = {k: v for k, v in os.environ.items() if "TELEMETRY" not in k} | {
            f"AGENT_TELEMETRY__{key}": value for key, value in settings.items()
        }
        roles = [f"recorder {n}" for n in range(recorders)]
        self._roles = roles if servers is None else ["forwarder", *roles]
        self._servers = servers
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[SpoolWriter]:
        writer = SpoolWriter(self.directory / "spool", max_bytes=2**33)
        try:
            for role in self._roles:
                self.processes[role] = subprocess.Popen(
                    [sys.executable, "-m", "proxy", role.partition(" ")[0]],
                    cwd=ROOT,
                    env=self._environment
                    | {
                        "AGENT_TELEMETRY__DATA_DIR": str(self.directory / role.replace(" ", "-")),
                        "AGENT_TELEMETRY__SPOOL__DIR": str(self.directory / "spool"),
                    },
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            await self.moved(writer, 5)
            await asyncio.sleep(SETTLE_S)
            yield writer
        finally:
            writer.close()
            for process in self.processes.values():
                process.kill()
                process.wait()

    async def moved(self, writer: SpoolWriter, count: int) -> float:
        """Write so many calls and wait for their rows; seconds that it took."""
        calls = [exchange(number) for number in range(count)]
        before, began = await self.rows(), time.monotonic()
        for call in calls:
            write(writer, call)
        await until(lambda: self._has(before + count), f"{count} rows", 300)
        return time.monotonic() - began

    async def rows(self) -> int:
        connection = await asyncpg.connect(self.dsn)
        try:
            found = await connection.fetchval("SELECT to_regclass('agent_telemetry')")
            asked = "SELECT count(*) FROM agent_telemetry WHERE record_type = 'llm_call'"
            return await connection.fetchval(asked) if found else 0
        finally:
            await connection.close()

    async def is_linked(self) -> bool:
        connection = await asyncpg.connect(self.dsn)
        try:
            asked = "SELECT NOT EXISTS (SELECT FROM agent_links WHERE is_pending)"
            return bool(await connection.fetchval(asked))
        finally:
            await connection.close()

    async def _has(self, count: int) -> bool:
        return await self.rows() >= count

    async def visible_s(self, connection: asyncpg.Connection, writer: SpoolWriter) -> float:
        """Of one call: from its end to the row."""
        id, began = write(writer, exchange(0)), time.monotonic()
        while not await connection.fetchval("SELECT 1 FROM agent_telemetry WHERE id = $1", id):
            await asyncio.sleep(0.001)
        return time.monotonic() - began

    def used(self) -> dict[str, float]:
        """Processor time so far, by role; all servers and all recorders together."""
        found = {"forwarder": 0.0, "recorder": 0.0, "servers": 0.0}
        for role, process in self.processes.items():
            found[role.partition(" ")[0]] += cpu_s(process.pid)
        for pid in self._servers.pids if self._servers else ():
            found["servers"] += cpu_s(pid)
        return found | {"database": database_cpu_s(self.database)}


async def visible_ms(one: Stand, fleet: Stand) -> tuple[list[float], list[float]]:
    """Until the row, on one machine and over NATS: in turn, so that both meet the same load."""
    found: tuple[list[float], list[float]] = ([], [])
    async with one.running() as here, fleet.running() as there:
        ways = [(each, await asyncpg.connect(each.dsn)) for each in (one, fleet)]
        for number in range(LATENCY_CALLS):
            for (stand, connection), writer, took in zip(ways, (here, there), found, strict=True):
                await asyncio.sleep(0.03 + number % 7 * 0.03)
                took.append(await stand.visible_s(connection, writer) * 1e3)
        for _, connection in ways:
            await connection.close()
    return found


async def measured(stand: Stand, calls: int) -> dict[str, float]:
    async with stand.running() as writer:
        before = stand.used()
        wall_s = await stand.moved(writer, calls)
        await until(stand.is_linked, "all calls are linked", 300)
        await asyncio.sleep(1)  # for acknowledgements
        after = stand.used()
        found = {role: (after[role] - before[role]) / calls * 1e3 for role in after}
        found["wall_s"] = wall_s
        return found


async def linking_ms(stand: Stand) -> float:
    """Of one linker and the database, per call: what one process at a time has to do for all."""
    connection = await asyncpg.connect(stand.dsn)
    await connection.execute("UPDATE agent_links SET is_pending = TRUE")
    calls = await connection.fetchval("SELECT count(*) FROM agent_links")
    await connection.close()
    links = LinkStore(stand.dsn)
    config = Config(data_dir=stand.directory, store={"dsn": stand.dsn})
    before = time.process_time() + database_cpu_s(stand.database)
    await Linker(config, links, None).settle(datetime.now(UTC))
    after = time.process_time() + database_cpu_s(stand.database)
    await links.close()
    return (after - before) / calls * 1e3


async def main(calls: int, rounds: int) -> None:
    kinds = {"one machine": (0, 1), "NATS, one recorder": (3, 1), "NATS, two recorders": (3, 2)}
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="fleet-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        server = EmbeddedServer(directory / "pg")
        base = server.start()
        stack.callback(server.stop)
        servers = Servers(directory / "nats", 3)
        async with servers.running():
            for number in range(rounds):
                for kind, (count, recorders) in kinds.items():
                    dsn = await _database(base)
                    stand = Stand(
                        directory / f"s{uuid4().hex[:8]}",
                        dsn,
                        servers if count else None,
                        recorders,
                    )
                    results[kind].append(await measured(stand, calls))
                    if not count:
                        results[kind][-1]["linking"] = await linking_ms(stand)
                    print(f"round {number + 1}, {kind}: {results[kind][-1]}", file=sys.stderr)
            stands = [
                Stand(
                    directory / f"s{uuid4().hex[:8]}",
                    await _database(base),
                    each,
                    1,
                    STORE__BATCH_DELAY_MS="1",
                )
                for each in (None, servers)
            ]
            visible = await visible_ms(*stands)
    _print(results, calls)
    here, there = map(statistics.median, visible)
    added = statistics.median([b - a for a, b in zip(*visible, strict=True)])
    print(f"until the row: {here:.0f} ms on one machine, {there:.0f} ms over NATS,", end=" ")
    print(f"in pairs {added:+.0f} ms; without store.batch_delay_ms, which is 200 by itself")


async def _database(base: str) -> str:
    name = f"b{uuid4().hex[:8]}"
    connection = await asyncpg.connect(base)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    dsn = base.replace("/agent_telemetry?", f"/{name}?")
    await migrate(dsn)
    return dsn


def _print(results: dict[str, list[dict[str, float]]], calls: int) -> None:
    call = exchange(1)
    print(f"{calls} calls; medians of rounds; milliseconds of processor time per call")
    names = ("recorder", "forwarder", "servers", "database", "linking", "wall_s")
    print(f"{'':<22}" + "".join(f"{name:>12}" for name in names))
    median: dict[str, dict[str, float]] = {}
    for kind, rounds in results.items():
        median[kind] = {
            name: statistics.median([r[name] for r in rounds if name in r] or [0]) for name in names
        }
        print(f"{kind:<22}" + "".join(f"{median[kind][name]:>12.3f}" for name in names))
    one, two = (
        median[f"NATS, {n} recorder{s}"]["recorder"] for n, s in (("one", ""), ("two", "s"))
    )
    alone = median["one machine"]["recorder"]
    added = median["NATS, one recorder"]
    print(
        f"added processor time per call: {added['forwarder'] + one - alone:.3f} ms of ours, ",
        end="",
    )
    print(f"{added['servers']:.3f} ms of three servers")
    print(f"two recorders by processor time: {2 * one / two:.2f} x one")
    body = len(call.request) + sum(len(piece.data) for piece in call.response)
    print(f"bytes: bodies {body}, message {len(Message(call).to_bytes())}", end="")
    with tempfile.TemporaryDirectory() as name:
        writer = SpoolWriter(Path(name), max_bytes=2**30)
        before = summed(read_totals(Path(name))).disk_bytes
        for number in range(20):
            write(writer, exchange(number))
        print(f", spool {(summed(read_totals(Path(name))).disk_bytes - before) // 20}")
        writer.close()


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:3]]
    asyncio.run(main(*(given + [CALLS, ROUNDS][len(given) :])))
