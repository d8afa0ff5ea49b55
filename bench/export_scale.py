"""How much memory and time an export of many rows takes.

    python bench/export_scale.py [ROWS] [FORMAT ...]

Makes a database of its own with ROWS rows (100,000 if not said): conversations of four calls with
a tool and one turn each, all different. Then each format is exported in a process of its own,
twice, and the bytes are compared. Prints a line per format: size, seconds, and the peak memory of
the process.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asyncpg

from proxy.store.embedded import EmbeddedServer
from proxy.store.migrate import migrate

CALLS = 4  # of a conversation; its turn is one row more
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
FORMATS = ("openai", "trl", "anthropic", "gemini", "sharegpt", "jsonl", "parquet")

# md5 gives words that differ everywhere and do not compress away.
FILL = """
WITH conversation AS (
    SELECT s, md5('turn' || s)::uuid AS turn, 'session-' || s AS session,
        timestamptz '2026-01-01' + s * interval '1 second' AS at,
        (SELECT jsonb_agg(m ORDER BY n) FROM (
            SELECT 2 * k AS n, jsonb_build_object('role', 'assistant', 'content', NULL,
                'tool_calls', jsonb_build_array(jsonb_build_object('id', 'call_' || s || '_' || k,
                    'type', 'function', 'function', jsonb_build_object('name', 'read',
                        'arguments', '{"path": "' || md5(s || 'p' || k) || '"}')))) AS m
                FROM generate_series(1, 3) k
            UNION ALL SELECT 2 * k + 1, jsonb_build_object('role', 'tool',
                'tool_call_id', 'call_' || s || '_' || k, 'content', words)
                FROM generate_series(1, 3) k, LATERAL (
                    SELECT string_agg(md5(s || 'w' || k || w), ' ') AS words
                    FROM generate_series(1, 20) w) x
            UNION ALL SELECT 1, jsonb_build_object('role', 'user', 'content',
                'question ' || s || ' ' || md5(s::text))
        ) messages) AS history
    FROM generate_series($1::int, $2::int) s
)
INSERT INTO agent_telemetry (id, created_at, record_type, session_id, user_message, model_used,
    system_prompt, chat_history, response_text, tool_calls, duration_ms, outcome, finish_reason,
    stop_reason, rounds, tool_call_count, turn_id, round, parent_id, request_params, total_tokens,
    capture)
SELECT md5(s || 'c' || k)::uuid, at + k * interval '1 ms',
    CASE WHEN k > 4 THEN 'turn_summary' ELSE 'llm_call' END, session, 'question ' || s, 'model-1',
    CASE WHEN k > 4 THEN '' ELSE 'You read files.' END,
    CASE WHEN k > 4 THEN '[]' ELSE jsonb_path_query_array(history,
        ('$[0 to ' || 2 * (k - 1) || ']')::jsonpath) END,
    CASE WHEN k IN (4, 5) THEN 'It says ' || md5(s || 'a') END,
    CASE WHEN k < 4 THEN jsonb_build_array(jsonb_build_object('id', 'call_' || s || '_' || k,
        'name', 'read', 'arguments', jsonb_build_object('path', md5(s || 'p' || k)))) END,
    10, CASE WHEN k < 5 THEN 'complete' END, CASE WHEN k < 4 THEN 'tool_calls' ELSE 'stop' END,
    CASE WHEN k > 4 THEN 'completed' END, CASE WHEN k > 4 THEN 4 END, CASE WHEN k > 4 THEN 3 END,
    turn, CASE WHEN k < 5 THEN k END,
    CASE WHEN k BETWEEN 2 AND 4 THEN md5(s || 'c' || k - 1)::uuid END,
    CASE WHEN k < 5 THEN '{"tools": [{"type": "function", "function": {"name": "read"}}]}'::jsonb
    END, 1000 + s % 5000,
    CASE WHEN k > 4 THEN jsonb_build_object('evidence', jsonb_build_array(md5(s || 'c4')::uuid))
        ELSE jsonb_build_object('link', jsonb_build_object('kind',
            CASE WHEN k = 1 THEN 'opens' ELSE 'continues' END)) END
FROM conversation, generate_series(1, 5) k
"""


async def fill(dsn: str, rows: int) -> None:
    """Write that many rows, a part at a time."""
    conversations, part = rows // (CALLS + 1), 5_000
    connection = await asyncpg.connect(dsn)
    try:
        for first in range(1, conversations + 1, part):
            last = min(first + part - 1, conversations)
            await connection.execute(FILL, first, last, timeout=600)
        await connection.execute("ANALYZE agent_telemetry")
    finally:
        await connection.close()


def export(dsn: str, format: str, out: Path) -> tuple[str, float, int]:
    """The SHA-256 of the file, seconds, and the process's peak memory in bytes."""
    environ = os.environ | {"DATABASE_URL": dsn, "AGENT_TELEMETRY__DATA_DIR": str(out.parent)}
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", "export", "--format", format, "--out", str(out)],
        env=environ,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"export of {format} failed with {process.returncode}")
    with out.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest, time.monotonic() - begin, _peak_bytes(usage)


def _peak_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(prefix="export-scale-") as directory:
        server = EmbeddedServer(Path(directory) / "database", FAST)
        try:
            dsn = server.start()
            asyncio.run(migrate(dsn))
            begin = time.monotonic()
            asyncio.run(fill(dsn, rows))
            print(f"{rows} rows written in {time.monotonic() - begin:.0f} s", flush=True)
            for format in sys.argv[2:] or FORMATS:
                out = Path(directory) / f"data.{format}"
                first, seconds, peak = export(dsn, format, out)
                size = out.stat().st_size
                again, _, _ = export(dsn, format, out)
                same = "equal bytes twice" if first == again else "BYTES DIFFER"
                figures = f"{size / 1e6:8.0f} MB  {seconds:6.0f} s  peak {peak / 1e6:5.0f} MB"
                print(f"{format:<10} {figures}  {same}", flush=True)
                out.unlink()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
