"""How long each page of the web page takes with a million rows, from request to last byte.

    python -m bench.pages [--rows 1000000] [--rounds 15] [--keep DIRECTORY]

Fills a database of its own by SQL (80 % calls, 20 % turns, 20 rows to a conversation, 30 days),
then asks for each page over loopback and prints a Markdown table. Processor time, of this process
(server and client) and of PostgreSQL, tells more than the clock on a machine with other work.
`--keep` fills only once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import asyncpg

from proxy.rollup import Rollup
from proxy.store.embedded import EmbeddedServer
from proxy.store.migrate import migrate
from tests.conftest import FAST
from tests.web.listener import listening

LIMIT_MS = 300
UUID7 = """
CREATE OR REPLACE FUNCTION pg_temp.uuid7(at TIMESTAMPTZ, n BIGINT) RETURNS UUID LANGUAGE SQL AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' ||
        substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid
$$
"""
# Twenty rows are a conversation: four turns of four calls and the row that says how each ended.
ROWS = """
INSERT INTO agent_telemetry (id, created_at, record_type, project_id, session_id, user_message,
    model_used, system_prompt, chat_history, response_text, response_thoughts, tool_calls,
    tool_results, stop_reason, rounds, tool_call_count, prompt_tokens, completion_tokens,
    total_tokens, duration_ms, turn_id, round, provider, endpoint, streamed, status, outcome, error,
    finish_reason, request_params, cached_tokens, cost_usd, ttft_ms, client, parent_id, capture)
SELECT pg_temp.uuid7(at, n), at, CASE WHEN is_turn THEN 'turn_summary' ELSE 'llm_call' END,
    'project-' || s % 12, 'session-' || s,
    'please repair part ' || s || ' of the '
        || (ARRAY['invoice', 'import', 'search', 'login'])[s % 4 + 1],
    (ARRAY['claude-sonnet-4-5', 'gpt-5', 'gpt-5-mini', 'gemini-2.5-pro', 'rare'])[
        CASE WHEN s % 1000 = 0 THEN 5 ELSE s % 4 + 1 END],
    CASE WHEN is_turn THEN '' ELSE repeat('You are a careful agent. ', 20) END,
    CASE WHEN is_turn THEN '[]' ELSE (
        SELECT jsonb_agg(jsonb_build_object('role', (ARRAY['user', 'assistant'])[m % 2 + 1],
            'content', 'message ' || m || ' ' || repeat(md5(m::text), 6)))
        FROM generate_series(0, k) m) END,
    'answer ' || n || ' ' || repeat(md5(n::text), 4),
    CASE WHEN k % 3 = 0 THEN repeat('I think about it. ', 10) END,
    CASE WHEN is_turn OR k % 5 < 3 THEN jsonb_build_array(jsonb_build_object(
        'id', 'call_' || n, 'name', (ARRAY['read', 'run', 'edit', 'search'])[n % 4 + 1],
        'arguments', jsonb_build_object('path', 'src/file_' || n))) END,
    CASE WHEN is_turn THEN (
        SELECT jsonb_agg(jsonb_build_object('id', 'call_' || n - 5 + r, 'round', r,
            'name', (ARRAY['read', 'run', 'edit', 'search'])[(n - 5 + r) % 4 + 1],
            'is_error', (n + r) % 11 = 0, 'latency_ms', (n * 7 + r * 131) % 4000,
            'output', repeat(md5((n + r)::text), 12)))
        FROM generate_series(1, 3) r) END,
    CASE WHEN is_turn THEN (ARRAY['completed', 'completed', 'completed', 'completed', 'completed',
        'abandoned', 'user_aborted', 'tool_failure', 'loop_detected:same_call:read', 'max_tokens'])[
        n / 5 % 10 + 1] END,
    CASE WHEN is_turn THEN 4 - n / 5 % 3 END, CASE WHEN is_turn THEN 3 END,
    2000 + n % 9000, 100 + n % 700, 2100 + n % 9000 + n % 700, 500 + n % 9000,
    pg_temp.uuid7(begun + (k / 5 * 5) * INTERVAL '7 s', n - k % 5),
    CASE WHEN NOT is_turn THEN k % 5 + 1 END, 'provider-' || s % 4, 'messages', TRUE,
    CASE WHEN NOT is_turn THEN CASE WHEN n % 40 = 0 THEN 529 ELSE 200 END END,
    CASE WHEN NOT is_turn THEN CASE WHEN n % 40 = 0 THEN 'upstream_error' ELSE 'complete' END END,
    CASE WHEN n % 40 = 0 AND NOT is_turn THEN 'overloaded' END, 'stop',
    '{"temperature": 0.2, "tools": [{"name": "read", "input_schema": {"type": "object"}}]}',
    1500 + n % 5000, 0.001 + n % 100 / 10000.0, 200 + n * 7 % 1500, 'claude-code/2.1.0',
    CASE WHEN k % 5 > 0 THEN pg_temp.uuid7(at - INTERVAL '7 s', n - 1) END,
    CASE WHEN is_turn THEN jsonb_build_object('rule', 'as the last answer says', 'evidence',
        jsonb_build_array(pg_temp.uuid7(at - INTERVAL '7 s', n - 1)))
    ELSE jsonb_build_object('request_bytes', 20000, 'request_sha256', repeat(md5(n::text), 2),
        'session_source', 'agent', 'link', jsonb_build_object(
        'thread', pg_temp.uuid7(begun, s * 20), 'evidence', 'history',
        'kind', CASE WHEN k = 0 THEN 'opens' ELSE 'continues' END,
        'parent', CASE WHEN k > 0 THEN pg_temp.uuid7(at - INTERVAL '7 s' * (1 + (k % 5 = 0)::int),
            n - 1 - (k % 5 = 0)::int) END)) END
FROM (
    SELECT n, n / 20 AS s, (n % 20)::int AS k, n % 5 = 4 AS is_turn, b.begun,
        b.begun + n % 20 * INTERVAL '7 s' AS at
    FROM generate_series($1::bigint, $2::bigint) n CROSS JOIN LATERAL (
        SELECT date_trunc('milliseconds', now() - INTERVAL '30 days'
            + INTERVAL '30 days' * (n / 20 * 20)::float8 / $3::float8) AS begun
    ) b
) AS numbered
"""
LINKS = """
INSERT INTO agent_links (call_id, created_at, facts, outputs, is_pending)
SELECT id, created_at, '{}', '[]', FALSE FROM agent_telemetry WHERE record_type = 'llm_call'
"""
# One conversation of a long day: 120 rounds, whose histories grow to some 800 kB.
LONG = """
INSERT INTO agent_telemetry (id, created_at, project_id, session_id, user_message, model_used,
    system_prompt, chat_history, response_text, tool_calls, duration_ms, turn_id, round, outcome,
    status, prompt_tokens, completion_tokens, request_params, capture)
SELECT pg_temp.uuid7(at, n), at, 'long', 'long', 'work for a day', 'gpt-5',
    repeat('You are a careful agent. ', 400),
    (SELECT jsonb_agg(jsonb_build_object('role', CASE m % 2 WHEN 0 THEN 'user' ELSE 'assistant' END,
        'content', m || repeat(md5(m::text), 105))) FROM generate_series(0, 2 * n::int) m),
    'step ' || n || repeat(md5(n::text), 60),
    jsonb_build_array(jsonb_build_object('id', 'c' || n, 'name', 'read', 'arguments',
        jsonb_build_object('path', repeat(md5(n::text), 20)))),
    5000, pg_temp.uuid7(begun, 0), n + 1, 'complete', 200, 9000, 300,
    '{"tools": [{"name": "read"}]}', jsonb_build_object('link', jsonb_build_object(
        'kind', CASE WHEN n = 0 THEN 'opens' ELSE 'continues' END, 'evidence', 'history',
        'thread', pg_temp.uuid7(begun, 0), 'parent', CASE WHEN n > 0
            THEN pg_temp.uuid7(begun + (n - 1) * INTERVAL '9 s', n - 1) END))
FROM (SELECT n, begun, begun + n * INTERVAL '9 s' AS at FROM generate_series(0, 119) n,
    (SELECT date_trunc('milliseconds', now()) - INTERVAL '3 hours' AS begun) b) AS numbered
"""
PAGES = {
    "live": "/",
    "live, one project": "/?project=project-7",
    "live, a rare model": "/?model=rare",
    "live, what went wrong": "/?errors=1&kind=turns",
    "live, nothing matches": "/?project=none&model=none",
    "conversations": "/conversations",
    "conversations, four weeks": "/conversations?since=4w",
    "conversations, abandoned": "/conversations?outcome=abandoned&project=project-3",
    "conversations, a rare model": "/conversations?model=rare",
    "conversations, nothing matches": "/conversations?model=none&since=52w",
    "search, a word of a quarter": "/conversations?q=invoice&since=52w",
    "search, two words": "/conversations?q=invoice+40004&since=52w",
    "search, nothing": "/conversations?q=absent&since=52w",
    "conversation of 20 rows": "/conversation?session=session-400&project=project-4",
    "conversation of 120 rounds, 800 kB": "/conversation?session=long&project=long",
    "overview, 24 hours": "/overview",
    "overview, 24 hours, one project": "/overview?project=project-7&by=project",
    "overview, 1 hour": "/overview?since=1h",
    "overview, 6 hours": "/overview?since=6h",
    "overview, 7 days": "/overview?since=7d",
    "overview, 4 weeks": "/overview?since=4w",
    "overview, 4 weeks, a rare model": "/overview?since=4w&model=rare",
    "overview, 4 weeks, nothing matches": "/overview?since=4w&project=none",
    "overview, a year": "/overview?since=52w&by=project",
    "health": "/health",
}


async def fill(dsn: str, rows: int) -> None:
    """Write the rows, unless they are there."""
    connection = await asyncpg.connect(dsn)
    try:
        if await connection.fetchval("SELECT count(*) FROM agent_telemetry"):
            return
        await connection.execute(UUID7)
        step = 50_000
        for start in range(0, rows, step):
            await connection.execute(ROWS, start, min(rows, start + step) - 1, rows)
        await connection.execute(LONG)
        await connection.execute(LINKS)
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()


@contextmanager
def directory(kept: str | None) -> Iterator[Path]:
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        yield Path(kept)
    else:
        with tempfile.TemporaryDirectory(prefix="agent-telemetry-pages-") as name:
            yield Path(name)


async def timed(session: aiohttp.ClientSession, address: str) -> tuple[float, int]:
    """Milliseconds from the request to the last byte, and how many bytes there were."""
    begin = time.perf_counter()
    async with session.get(address) as answer:
        body = await answer.read()
        if answer.status != 200:
            raise SystemExit(f"{address}: status {answer.status}")
    return 1000 * (time.perf_counter() - begin), len(body)


def processor_ms(postmaster: int) -> float:
    """What this process and PostgreSQL's have used so far. Linux only."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == postmaster:
                ticks += int(fields[11]) + int(fields[12])
    return 1000 * (ticks / os.sysconf("SC_CLK_TCK") + time.process_time())


async def measure(dsn: str, where: Path, rounds: int) -> None:
    print(f"| page | median ms | slowest of {rounds} | processor ms | kB |")
    print("|---|---:|---:|---:|---:|")
    postmaster = int((where / "postgres" / "postmaster.pid").read_text().split()[0])
    async with listening(where, dsn) as address, aiohttp.ClientSession() as session:
        for name, path in PAGES.items():
            await timed(session, address + path)  # the first reads from disk
            before = processor_ms(postmaster)
            found = [await timed(session, address + path) for _ in range(rounds)]
            used = (processor_ms(postmaster) - before) / rounds
            times = [ms for ms, _ in found]
            middle, most = statistics.median(times), max(times)
            mark = "" if middle <= LIMIT_MS else " *"
            size = found[0][1] / 1000
            print(f"| {name}{mark} | {middle:.0f} | {most:.0f} | {used:.0f} | {size:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--keep", metavar="DIRECTORY")
    given = parser.parse_args()
    with directory(given.keep) as where:
        server = EmbeddedServer(where, FAST)
        try:
            dsn = server.start()
            asyncio.run(migrate(dsn))
            begin = time.perf_counter()
            asyncio.run(fill(dsn, given.rows))
            print(f"{given.rows:,} rows, filled in {time.perf_counter() - begin:.0f} s")
            begin = time.perf_counter()
            times = asyncio.run(Rollup(dsn).round(datetime.now(UTC)))
            print(f"{times:,} times added up in {time.perf_counter() - begin:.0f} s\n")
            asyncio.run(measure(dsn, where, given.rounds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
