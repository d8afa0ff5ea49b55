"""What rows take on disk and to write, stored whole and shared; writes docs/storage.md.

    python -m bench.storage [ROUNDS]

Writes the same records into two databases of one PostgreSQL with the settings of the embedded one,
in rounds that take turns. CPU is that of this process (which does what the recorder does after
assembling, and collects cycles as seldom) and of PostgreSQL. The second part adds what the spool
takes and what PostgreSQL writes ahead. `python -m bench.retention` measures the rest.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.histories import Calls, agents, apart, data_sets, with_history
from bench.processes import cpu_s, tree
from bench.storage_document import publish
from proxy import config
from proxy.assemble import Assembled
from proxy.running import spare_the_collector
from proxy.store.connection import Connection, connect
from proxy.store.embedded import NAME, EmbeddedServer
from proxy.store.migrate import migrate
from proxy.store.postgres import Store
from proxy.store.reports import REPLAY
from tests.spool.samples import a_writer, write_call

ROUNDS = 5
BATCH_ROWS = 500  # as the recorder's default
HISTORIES = ("full", "shared")
READS = 15
SIZES = """
SELECT c.relname AS name, pg_total_relation_size(c.oid) AS bytes
FROM pg_class c WHERE c.relkind = 'r' AND c.relname LIKE 'agent%'
"""
ROWS = "SELECT * FROM {} ORDER BY id"
OPEN = "SELECT * FROM agent_telemetry_full WHERE session_id = $1 ORDER BY created_at, id"
SESSION = """
SELECT session_id FROM agent_telemetry WHERE session_id IS NOT NULL
GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1
"""


@dataclass(frozen=True)
class Round:
    """One time that everything was written."""

    wall_s: float
    cpu_s: float
    bytes: int  # of the tables, beyond what they take when empty
    wal_bytes: int


class Server:
    """A PostgreSQL of our own, and databases in it."""

    def __init__(self, server: EmbeddedServer, dsn: str) -> None:
        self._server, self._dsn, self._number = server, dsn, 0

    async def database(self) -> str:
        """A fresh one, migrated."""
        self._number += 1
        connection = await connect(self._dsn)
        await connection.execute(f"CREATE DATABASE bench_{self._number}")
        connection.terminate()
        dsn = self._dsn.replace(f"@/{NAME}?", f"@/bench_{self._number}?")
        await migrate(dsn)
        return dsn

    async def drop(self, dsn: str) -> None:
        name = dsn.partition("@/")[2].partition("?")[0]
        connection = await connect(self._dsn)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.terminate()

    def cpu_s(self) -> float:
        """Seconds that PostgreSQL and this process took so far."""
        assert self._server.pid is not None
        return cpu_s([*tree(self._server.pid), os.getpid()])


async def written(server: Server, dsn: str, calls: Sequence[Assembled], history: Any) -> Round:
    connection, store = await connect(dsn), Store(dsn, config.Store(history=history))
    await store.connect()
    empty, position = await size_of(connection), await wal(connection)
    began, began_cpu = time.perf_counter(), server.cpu_s()
    for start in range(0, len(calls), BATCH_ROWS):
        batch = calls[start : start + BATCH_ROWS]
        result = await store.write(
            [each.record for each in batch], {each.record.id: each.beside for each in batch}
        )
        assert not result.rejected
    took, took_cpu = time.perf_counter() - began, server.cpu_s() - began_cpu
    found = Round(
        took, took_cpu, await size_of(connection) - empty, await wal(connection) - position
    )
    await store.close()
    connection.terminate()
    return found


async def size_of(connection: Connection) -> int:
    return sum(row["bytes"] for row in await connection.fetch(SIZES))


async def wal(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


async def compared(server: Server, calls: Calls, rounds: int) -> str:
    """A line of the first table."""
    found: dict[str, list[Round]] = {history: [] for history in HISTORIES}
    kept: dict[str, str] = {}
    for number in range(rounds):
        for history in HISTORIES if number % 2 else HISTORIES[::-1]:
            if history in kept:
                await server.drop(kept[history])
            kept[history] = await server.database()
            found[history].append(await written(server, kept[history], calls.assembled, history))
    rows = await equal_rows(kept["full"], kept["shared"])
    replay, whole = await reading(kept)
    full, shared = found["full"][-1].bytes, found["shared"][-1].bytes
    for dsn in kept.values():
        await server.drop(dsn)
    cpu = [b.cpu_s / a.cpu_s for a, b in zip(found["full"], found["shared"], strict=True)]
    wall = [b.wall_s / a.wall_s for a, b in zip(found["full"], found["shared"], strict=True)]
    return (
        f"| {calls.name} | {len(calls.assembled):,} | {full / 1e6:.2f} | {shared / 1e6:.2f} "
        f"| {100 - 100 * shared / full:.0f} % | {rows} | {spread(cpu)} | {spread(wall)} "
        f"| {replay:.2f} | {whole:.2f} |"
    )


async def equal_rows(full: str, shared: str) -> str:
    """How many rows of the view are equal to the rows of the table that holds everything."""
    stores = Store(full), Store(shared)
    theirs = await stores[0].fetch(ROWS.format("agent_telemetry"))
    ours = await stores[1].fetch(ROWS.format("agent_telemetry_full"))
    for store in stores:
        await store.close()
    assert len(ours) == len(theirs)
    return f"{sum(a == b for a, b in zip(ours, theirs, strict=True)):,}"


async def reading(dsns: dict[str, str]) -> tuple[float, float]:
    """Time to replay the longest conversation, and to read its whole rows: shared ÷ full."""
    connections = {history: await connect(dsn) for history, dsn in dsns.items()}
    session = await connections["full"].fetchval(SESSION)
    took: dict[tuple[str, str], list[float]] = {}
    for _ in range(READS):
        for history, connection in connections.items():
            for query, values in ((REPLAY, (session, None, None)), (OPEN, (session,))):
                began = time.perf_counter()
                await connection.fetch(query, *values)
                took.setdefault((history, query), []).append(time.perf_counter() - began)
    for connection in connections.values():
        connection.terminate()
    medians = {key: statistics.median(values) for key, values in took.items()}
    replay, whole = (medians["shared", query] / medians["full", query] for query in (REPLAY, OPEN))
    return replay, whole


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}–{max(values):.2f}]"


async def histories(server: Server, rounds: int) -> str:
    lines = [
        "Bytes are those of all tables with their indexes, links included, beyond what the empty",
        f"tables take. Ratios are shared ÷ full, medians of {rounds} rounds that take turns, with",
        "the smallest and largest. CPU: recorder without assembling, and PostgreSQL. Reading: the",
        "longest conversation, `replay` (without histories) and its rows whole, from the view.",
        "",
        "| calls | rows | full, MB | shared, MB | saved | rows equal | CPU to write | time to write"
        " | time to replay | to read whole |",
        "|---|---:|---:|---:|---:|---:|---|---|---:|---:|",
    ]
    for calls in data_sets():
        print(calls.name, file=sys.stderr)
        lines.append(await compared(server, calls, rounds))
    return "\n".join(lines)


def scenarios() -> Iterator[Calls]:
    yield Calls("2 KB", list(apart(1000, 2000)))
    yield Calls("10 KB, 80 % in the call before", list(with_history(1000)))
    yield Calls("200 KB", list(apart(60, 200_000)))
    yield Calls("agent growing to 150 KB", agents(30_000, 150_000, 5))


async def bytes_per_call(server: Server) -> str:
    lines = [
        "KB per call. The spool holds the request as the agent sent it and an answer of 1 KB, and",
        "gives the room back once the row is committed. Tables with their indexes; WAL as written",
        "by the recorder's transactions, with full-page images, without linking.",
        "",
        "| call | spool | tables, full | WAL, full | tables, shared | WAL, shared |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for calls in scenarios():
        print(calls.name, file=sys.stderr)
        count = len(calls.assembled)
        cells = [f"{spooled(calls.assembled) / count / 1e3:.1f}"]
        for history in HISTORIES:
            dsn = await server.database()
            found = await written(server, dsn, calls.assembled, history)
            await server.drop(dsn)
            cells += [f"{found.bytes / count / 1e3:.1f}", f"{found.wal_bytes / count / 1e3:.1f}"]
        lines.append(f"| {calls.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spooled(calls: Sequence[Assembled]) -> int:
    """Bytes of the segments that these calls make."""
    with tempfile.TemporaryDirectory() as directory:
        writer = a_writer(Path(directory))
        before = _size(Path(directory))
        for each in calls:
            record = each.record
            body = {"messages": record.chat_history, "system": record.system_prompt}
            write_call(
                writer, json.dumps(body | (record.request_params or {})).encode(), (b"x" * 1000,)
            )
        found = _size(Path(directory)) - before
        writer.close()
    return found


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*.seg*"))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    spare_the_collector()
    with tempfile.TemporaryDirectory() as directory:
        embedded = EmbeddedServer(Path(directory))
        server = Server(embedded, embedded.start())
        try:
            publish("history", asyncio.run(histories(server, rounds)))
            publish("written", asyncio.run(bytes_per_call(server)))
        finally:
            embedded.stop()


if __name__ == "__main__":
    main()
