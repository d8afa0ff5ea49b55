"""Expire: rows without their payload. What was said is gone, what was measured stays.

As where only metadata was to be kept from the beginning: no prompt, answer or tool content, names
of tools stay. `capture` says so: `"content": "metadata", "payload": "expired"`. What lies beside
the rows goes too: results of tools in `agent_links`, media, raw exchanges, shared messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from proxy.store.connection import Connection
from proxy.store.postgres import Row
from proxy.store.prune import release
from proxy.store.purge import delete_blobs

PAGE_ROWS = 500

# A page of rows whatever they hold, so that no statement has to look through all old rows.
_PAGE = """
SELECT id, created_at, COALESCE(capture ->> 'content', 'full') <> 'metadata' AS has_payload
FROM agent_telemetry
WHERE created_at < $1 AND created_at >= $2 AND (created_at, id) > ($2, $3)
ORDER BY created_at, id LIMIT $4
"""
# Rows that somebody works on are left for the next pass.
_LOCK = """
SELECT id, CASE jsonb_typeof(capture -> 'blobs') WHEN 'array' THEN capture -> 'blobs' END AS blobs
FROM agent_telemetry WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED
"""


def _bare(column: str, content: str) -> str:
    """The items of a JSON array without their content, which is null then."""
    names = ", ".join(f"'{name}'" for name in content.split())
    null = content.split()[0]
    return f"""CASE jsonb_typeof({column}) WHEN 'array' THEN (
        SELECT COALESCE(jsonb_agg(item - ARRAY[{names}] || '{{"{null}": null}}' ORDER BY n), '[]')
        FROM jsonb_array_elements({column}) WITH ORDINALITY AS items (item, n)
        WHERE jsonb_typeof(item) = 'object') END"""  # noqa: S608 - our own names


_STRIP = f"""
UPDATE agent_telemetry SET system_prompt = '', chat_history = '[]', user_message = NULL,
    response_text = NULL, response_thoughts = NULL, request_params = NULL,
    tool_calls = {_bare("tool_calls", "arguments raw")},
    tool_results = {_bare("tool_results", "output")},
    error = CASE WHEN outcome IN ('upstream_unreachable', 'upstream_timeout', 'proxy_crashed')
        THEN error END,
    capture = CASE jsonb_typeof(capture) WHEN 'object' THEN capture ELSE '{{}}' END
        - ARRAY['choices', 'media', 'blobs']
        || '{{"content": "metadata", "payload": "expired"}}'
WHERE id = ANY($1)
"""  # noqa: S608 - as above
_LINKS = f"""
UPDATE agent_links SET outputs = {_bare("outputs", "output")}
WHERE call_id = ANY($1) AND outputs IS NOT NULL
"""  # noqa: S608 - as above
_RAW = "DELETE FROM agent_raw WHERE id = ANY($1)"
_RAW_ALONE = "DELETE FROM agent_raw WHERE created_at < $1"  # of what never became a row
_REPORTS = """
UPDATE agent_reports SET report = report - ARRAY['user_message', 'tool_results']
WHERE created_at < $1 AND report ?| ARRAY['user_message', 'tool_results']
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pass over the rows, in order of time, has got to."""

    created_at: datetime
    id: UUID
    rows: int = 0  # of the last batch


async def expire_batch(connection: Connection, before: datetime, after: Place) -> Place | None:
    """Take the payload of the next rows older than that; None: there were no more.

    To be called inside a transaction.
    """
    page = await connection.fetch(_PAGE, before, after.created_at, after.id, PAGE_ROWS)
    if not page:
        await connection.execute(_REPORTS, before)
        await connection.execute(_RAW_ALONE, before)
        return None
    found = [row["id"] for row in page if row["has_payload"]]
    rows = [dict(row) for row in await connection.fetch(_LOCK, found)] if found else []
    if rows:
        await _expire(connection, rows)
    return Place(page[-1]["created_at"], page[-1]["id"], len(rows))


async def _expire(connection: Connection, rows: Sequence[Row]) -> None:
    ids = [row["id"] for row in rows]
    for statement in (_STRIP, _LINKS, _RAW):
        await connection.execute(statement, ids)
    await delete_blobs(connection, rows)
    await release(connection, ids)
