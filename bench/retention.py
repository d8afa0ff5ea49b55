"""Retention of many rows while others are written, and a day of payload dropped at once.

    python -m bench.retention [ROWS]

Fills a table with rows of 2 KB that are older than they may be, spread over four days, in a
PostgreSQL of its own with the settings of the embedded one. A writer stores 20 rows of 2 KB five
times a second; how long each batch takes is measured alone, and while the recorder's task deletes
the old rows. Then the same with `store.partitions`, and how soon the payload's room is free again.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from bench.histories import Words, plain
from bench.storage_document import publish
from proxy import config
from proxy.assemble import Assembled
from proxy.record import Beside, TelemetryRecord
from proxy.retention import Done, Retention
from proxy.store import partitions
from proxy.store.connection import Connection, connect
from proxy.store.embedded import EmbeddedServer
from proxy.store.migrate import migrate
from proxy.store.postgres import Store

ROWS = 1_000_000
DAYS = 4
KEPT_DAYS = 30
AT_ONCE = 50_000  # rows of one INSERT
BATCH_ROWS, EVERY_S = 20, 0.2
ALONE_S = 20.0
TEXT = "(SELECT string_agg(md5(n::text || p::text), ' ') FROM generate_series(1, 60) p)"
ROW = """
INSERT INTO agent_telemetry (id, created_at, model_used, system_prompt, chat_history, duration_ms,
    session_id, outcome, user_message, response_text, capture)
SELECT md5(n::text)::uuid, $3::timestamptz + make_interval(secs => n / 100.0), 'model-1', '',
    {history}, 900, 'old-' || n / 10, 'complete', 'hello', 'done', '{{"request_bytes": 1}}'
FROM generate_series($1::bigint, $2::bigint) n
"""
FULL = (
    ROW.format(history=f"jsonb_build_array(jsonb_build_object('role', 'user', 'content', {TEXT}))")
    .replace("{{", "{")
    .replace("}}", "}")
)
SHARED = ROW.format(history="'[]'").replace("{{", "{").replace("}}", "}")
LINKS = """
INSERT INTO agent_links (call_id, created_at, facts, is_pending)
SELECT md5(n::text)::uuid, $3::timestamptz + make_interval(secs => n / 100.0), '{}', FALSE
FROM generate_series($1::bigint, $2::bigint) n
"""
MESSAGES = f"""
INSERT INTO agent_messages (day, hash, content)
SELECT $3, md5('m' || n)::uuid, jsonb_build_object('role', 'user', 'content', {TEXT})
FROM generate_series($1::bigint, $2::bigint) n
"""  # noqa: S608 - a text of our own
CHAINS = """
INSERT INTO agent_chains (day, hash, message)
SELECT $3, md5('c' || n)::uuid, md5('m' || n)::uuid FROM generate_series($1::bigint, $2::bigint) n
"""
CONTEXTS = """
INSERT INTO agent_contexts (day, call_id, history, size_bytes)
SELECT $3, md5(n::text)::uuid, md5('c' || n)::uuid, 2000
FROM generate_series($1::bigint, $2::bigint) n
"""


@dataclass
class Latency:
    """Milliseconds that batches took to be committed."""

    took: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        cuts = statistics.quantiles(self.took, n=100, method="inclusive")
        return f"{cuts[49]:.0f} | {cuts[94]:.0f} | {cuts[98]:.0f} | {max(self.took):.0f}"


class Writer:
    """Stores small batches at a fixed pace for as long as it is wanted."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._words = Words(5)
        self._number = 0

    async def for_as_long(self, until: asyncio.Event) -> Latency:
        latency = Latency()
        while not until.is_set():
            began = time.perf_counter()
            batch = [self._row() for _ in range(BATCH_ROWS)]
            began_writing = time.perf_counter()
            await self._store.write(*batch_of(batch))
            latency.took.append(1000 * (time.perf_counter() - began_writing))
            await asyncio.sleep(max(0.0, EVERY_S - (time.perf_counter() - began)))
        return latency

    def _row(self) -> Assembled:
        self._number += 1
        text = self._words.text(2000)
        return plain("new", self._number, [{"role": "user", "content": text}])


def batch_of(
    assembled: Sequence[Assembled],
) -> tuple[list[TelemetryRecord], dict[UUID, Beside]]:
    """New rows of now under ids of their own, with what lies beside them."""
    now = datetime.now(UTC)
    records = [replace(each.record, id=uuid4(), created_at=now) for each in assembled]
    return records, {record.id: Beside() for record in records}


async def fill(connection: Connection, rows: int, begin: datetime, *, is_shared: bool) -> None:
    await connection.execute("SET synchronous_commit = off")
    for first in range(0, rows, AT_ONCE):
        last = min(rows, first + AT_ONCE) - 1
        day = begin + timedelta(days=first * DAYS // rows)
        statements = [SHARED if is_shared else FULL, LINKS]
        for statement in statements:
            await connection.execute(statement, first, last, day)
        if is_shared:
            for statement in (MESSAGES, CHAINS, CONTEXTS):
                await connection.execute(statement, first, last, day.date())
    await connection.execute("CHECKPOINT")
    await connection.execute("VACUUM ANALYZE")


def room_bytes(directory: Path) -> int:
    """What the files of the tables take on the disk."""
    total = 0
    for parent, _, names in os.walk(directory / "postgres" / "base"):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_blocks * 512
            except FileNotFoundError:
                continue
    return total


async def measured(directory: Path, dsn: str, rows: int, *, is_shared: bool) -> dict[str, str]:
    """One filled table: latencies alone and meanwhile, and what became of its room."""
    await migrate(dsn)
    settings = config.Store(
        history="shared" if is_shared else "full", partitions=is_shared, retention_days=KEPT_DAYS
    )
    begin = (datetime.now(UTC) - timedelta(days=KEPT_DAYS + DAYS + 2)).replace(hour=1)
    connection = await connect(dsn, statement_timeout_s=0)
    if is_shared:
        days = [begin.date() + timedelta(days=n) for n in range(DAYS)]
        await partitions.ensure(connection, days)
        await Retention(dsn, settings.model_copy(update={"retention_days": None})).round(
            datetime.now(UTC)
        )
    began = time.monotonic()
    await fill(connection, rows, begin, is_shared=is_shared)
    print(f"filled in {time.monotonic() - began:.0f} s", file=sys.stderr)
    store = Store(dsn, settings)
    writer, found = Writer(store), {}
    full = room_bytes(directory)
    found["full"] = f"{full / 1e6:.0f} MB"
    alone = asyncio.Event()
    asyncio.get_running_loop().call_later(ALONE_S, alone.set)
    found["alone"] = str(await writer.for_as_long(alone))
    over = asyncio.Event()
    writing = asyncio.create_task(writer.for_as_long(over))
    began = time.monotonic()
    retiring = asyncio.create_task(Retention(dsn, settings).round(datetime.now(UTC)))
    if is_shared:
        found["free after"] = await freed(connection, directory, full, began)
    done: Done = await retiring
    found["took"] = f"{time.monotonic() - began:.0f} s"
    over.set()
    found["meanwhile"] = str(await writing)
    assert done.rows_deleted == rows, done
    left = await connection.fetchval(
        "SELECT count(*) FROM agent_telemetry WHERE created_at < $1",
        begin + timedelta(days=DAYS + 1),
    )
    assert left == 0
    found["days"] = str(done.days_dropped)
    connection.terminate()
    await store.close()
    return found


async def freed(connection: Connection, directory: Path, full: int, began: float) -> str:
    """How soon the days are gone from the disk, and how much that was."""
    while len(await partitions.days(connection)) > 3:
        await asyncio.sleep(0.05)
    took = time.monotonic() - began
    await asyncio.sleep(1)
    return f"{took:.1f} s ({(full - room_bytes(directory)) / 1e6:.0f} MB)"


def table(found: dict[str, dict[str, str]], rows: int) -> str:
    lines = [
        f"Retention of {rows:,} rows of 2 KB, oldest first, by the recorder's task, while "
        f"{BATCH_ROWS} rows of 2 KB are written every {1000 * EVERY_S:.0f} ms. Milliseconds to "
        "commit such a batch:",
        "",
        "| history | | p50 | p95 | p99 | largest |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        lines.append(f"| {name} | without retention | {each['alone']} |")
        lines.append(f"| {name} | meanwhile | {each['meanwhile']} |")
    lines.append("")
    for name, each in found.items():
        text = f"`{name}`: {each['full']} on disk before; all rows were gone after {each['took']}"
        if "free after" in each:
            text += f"; the payload of {each['days']} days was dropped, its room was free after "
            text += each["free after"]
        lines.append(f"- {text}.")
    return "\n".join(lines)


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    found = {}
    for name, is_shared in (("full", False), ("shared, partitions", True)):
        with tempfile.TemporaryDirectory() as directory:
            server = EmbeddedServer(Path(directory))
            dsn = server.start()
            try:
                found[name] = asyncio.run(measured(Path(directory), dsn, rows, is_shared=is_shared))
            finally:
                server.stop()
        print(name, found[name], file=sys.stderr)
    publish("retention", table(found, rows))


if __name__ == "__main__":
    main()
