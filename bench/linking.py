"""What linking costs a call, in a table of 10,000 rows and in one of 1,000,000.

    python -m bench.linking [--rows 1000000] [--write]

Conversations with tools, one half with a session's name and one half without, are written into two
databases as the recorder does it; one of them is filled with copies of them (rows of 2 KB, facts,
keys). Then batches are linked in both in turn. Prints the time per call in each and their ratio,
which must stay below 1.5; `--write` puts them into docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg

from bench import report
from proxy.enrich.digests import Digests
from proxy.enrich.facts import link_of
from proxy.environment import load
from proxy.linker import Linker
from proxy.record import Beside, TelemetryRecord
from proxy.store.embedded import EmbeddedServer
from proxy.store.links import LinkStore
from proxy.store.migrate import migrate
from proxy.store.postgres import Store

FIRST_ROWS = 10_000
CALLS_PER_TALK = 4
BATCH_CALLS, BATCHES = 200, 25
LIMIT = 1.5
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
FAST |= {"shared_buffers": "256MB", "max_wal_size": "4GB", "autovacuum": "off"}
# A copy has other ids and keys, and the same sizes.
COPIES = (
    """
    CREATE TABLE pattern AS SELECT call_id AS id FROM agent_links LIMIT {first};
    ALTER TABLE pattern ADD PRIMARY KEY (id)
    """,
    """
    INSERT INTO agent_telemetry (id, created_at, model_used, system_prompt, chat_history,
        user_message, response_text, tool_calls, session_id, turn_id, round, duration_ms, outcome,
        request_params, capture)
    SELECT md5(t.id::text || {n})::uuid, created_at - {n} * INTERVAL '1 minute', model_used,
        system_prompt, chat_history, user_message, response_text, tool_calls,
        md5(session_id || {n}), md5(turn_id::text || {n})::uuid, round, duration_ms, outcome,
        request_params, capture
    FROM agent_telemetry t JOIN pattern USING (id)
    """,
    """
    INSERT INTO agent_links (call_id, created_at, conversation, facts, placement, is_pending)
    SELECT md5(call_id::text || {n})::uuid, created_at - {n} * INTERVAL '1 minute',
        md5(conversation::text || {n})::uuid, facts, placement, FALSE
    FROM agent_links JOIN pattern ON id = call_id
    """,
    """
    INSERT INTO agent_link_keys (key, is_wanted, created_at, call_id)
    SELECT substr(md5(key || {n}), 1, 11), is_wanted, created_at - {n} * INTERVAL '1 minute',
        md5(call_id::text || {n})::uuid
    FROM agent_link_keys JOIN pattern ON id = call_id
    """,
)


SIZES = """
SELECT (SELECT count(*) FROM agent_links) AS calls,
    pg_total_relation_size('agent_telemetry') / 1e6 AS rows_mb,
    pg_total_relation_size('agent_links') / 1e6 AS links_mb,
    pg_total_relation_size('agent_link_keys') / 1e6 AS keys_mb
"""


class Talks:
    """Conversations of which each call adds a tool's result to the history."""

    def __init__(self) -> None:
        self._chance = random.Random(1)
        self._at = datetime.now(UTC) - timedelta(days=1)

    def records(self, calls: int) -> list[TelemetryRecord]:
        return [record for _ in range(calls // CALLS_PER_TALK) for record in self._talk()]

    def _talk(self) -> list[TelemetryRecord]:
        name = uuid4().hex
        session = name if self._chance.random() < 0.5 else None
        history: list[object] = [{"role": "user", "content": f"look at {name}: {self._words()}"}]
        found = []
        for number in range(CALLS_PER_TALK):
            self._at += timedelta(milliseconds=5)
            is_last = number == CALLS_PER_TALK - 1
            call = {"id": f"call_{name}_{number}", "name": "read", "arguments": {"n": number}}
            found.append(
                TelemetryRecord(
                    id=uuid4(),
                    created_at=self._at,
                    model_used="model-1",
                    duration_ms=2,
                    system_prompt="You are careful.",
                    chat_history=list(history),
                    session_id=session,
                    user_message=name,
                    response_text="done" if is_last else None,
                    tool_calls=None if is_last else [call],
                    outcome="complete",
                    finish_reason="stop" if is_last else "tool_calls",
                    request_params={"tools": [{"type": "function", "function": {"name": "read"}}]},
                    capture={},
                )
            )
            function = {"name": "read", "arguments": f'{{"n": {number}}}'}
            asked = {"id": call["id"], "type": "function", "function": function}
            history += [
                {"role": "assistant", "content": None, "tool_calls": [asked]},
                {"role": "tool", "tool_call_id": call["id"], "content": self._words()},
            ]
        return found

    def _words(self) -> str:
        """Text that does not compress to nothing."""
        return " ".join(f"{self._chance.getrandbits(40):x}" for _ in range(70))


class Database:
    """A store, its linker and the conversations that are written into it."""

    def __init__(self, dsn: str, secret: bytes) -> None:
        self.dsn = dsn
        self.store, self.links, self.talks = Store(dsn), LinkStore(dsn), Talks()
        self.linker = Linker(load(None, {"HOME": "/"}), self.links, None)
        self._digests = Digests(secret)
        self.times_ms: list[float] = []

    async def write(self, calls: int) -> None:
        records = self.talks.records(calls)
        beside = {r.id: Beside(link=link_of(r, self._digests)) for r in records}
        await self.store.write(records, beside)

    async def begin(self) -> None:
        """Write and link the first rows."""
        await migrate(self.dsn)
        for _ in range(FIRST_ROWS // 1000):
            await self.write(1000)
            await self.linker.settle(datetime.now(UTC))

    async def measure(self) -> None:
        """One step over so many new calls."""
        await self.write(BATCH_CALLS)
        began = time.perf_counter()
        changes = await self.linker.step(datetime.now(UTC))
        self.times_ms.append((time.perf_counter() - began) * 1000 / BATCH_CALLS)
        assert changes.calls == BATCH_CALLS

    async def close(self) -> None:
        await self.links.close()
        await self.store.close()


async def fill(dsn: str, copies: int) -> None:
    """Add copies of the first rows."""
    connection = await asyncpg.connect(dsn, command_timeout=600)
    try:
        await connection.execute(COPIES[0].format(first=FIRST_ROWS))
        for number in range(copies):
            for statement in COPIES[1:]:
                await connection.execute(statement.format(n=f"{number + 1}"))
            print(f"\rcopies: {number + 1} of {copies}", end="", file=sys.stderr)
        print(file=sys.stderr)
        await connection.execute("DROP TABLE pattern")
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


async def run(rows: int, *, is_kept: bool) -> float:
    with tempfile.TemporaryDirectory() as directory:
        server = EmbeddedServer(Path(directory), FAST)
        dsn = server.start()
        try:
            ratio, text = await compared(dsn, await another(dsn), rows)
        finally:
            server.stop()
    print(text)
    if is_kept:
        report.replace_section("linking", f"{report.conditions({})}\n\n{text}")
    return ratio


async def another(dsn: str) -> str:
    """A second database on the same server."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE DATABASE large TEMPLATE template0")
    await connection.close()
    return dsn.replace("@/agent_telemetry?", "@/large?")


async def compared(small_dsn: str, large_dsn: str, rows: int) -> tuple[float, str]:
    """Large ÷ small, and a table of both."""
    small, large = Database(small_dsn, b"small"), Database(large_dsn, b"large")
    for database in (small, large):
        await database.begin()
    await fill(large.dsn, max(1, rows // FIRST_ROWS - 1))
    await small.store.execute("ANALYZE")
    for _ in range(BATCHES):  # in turn, so that whatever else the machine does slows both
        await small.measure()
        await large.measure()
    (size,) = await large.store.fetch(SIZES)
    for database in (small, large):
        await database.close()
    times = [statistics.median(database.times_ms) for database in (small, large)]
    ratio = times[1] / times[0]
    return ratio, "\n".join(
        (
            "| calls in the table | to link one, ms | ratio |",
            "|---:|---:|---:|",
            f"| {FIRST_ROWS:,} | {times[0]:.3f} | 1 |",
            f"| {size['calls']:,} | {times[1]:.3f} | {ratio:.2f} |",
            "",
            f"The large one holds {size['rows_mb']:.0f} MB of rows, {size['links_mb']:.0f} MB of "
            f"facts and {size['keys_mb']:.0f} MB of keys.",
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    ratio = asyncio.run(run(options.rows, is_kept=options.write))
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
