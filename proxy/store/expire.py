"""Expire: rows without their payload. What was said is gone, what was measured stays.

As where only metadata was to be kept from the beginning: no prompt, answer or tool content, names
of tools stay. `capture` says so: `"content": "metadata", "payload": "expired"`. What lies beside
the rows goes too: results of tools in `agent_links`, media, raw exchanges, shared messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from proxy.store.postgres import Connection
from proxy.store.prune import release
from proxy.store.purge import delete_blobs

BATCH_ROWS = 200

# Rows that somebody works on are left for the next pass.
_FIND = """
SELECT id, created_at,
    CASE jsonb_typeof(capture -> 'blobs') WHEN 'array' THEN capture -> 'blobs' END AS blobs
FROM agent_telemetry
WHERE created_at < $1 AND created_at >= $2 AND (created_at, id) > ($2, $3)
    AND COALESCE(capture ->> 'content', 'full') <> 'metadata'
ORDER BY created_at, id LIMIT $4 FOR UPDATE SKIP LOCKED
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
    rows = await connection.fetch(_FIND, before, after.created_at, after.id, BATCH_ROWS)
    if not rows:
        await connection.execute(_REPORTS, before)
        await connection.execute(_RAW_ALONE, before)
        return None
    ids = [row["id"] for row in rows]
    await connection.execute(_STRIP, ids)
    await connection.execute(_LINKS, ids)
    await connection.execute(_RAW, ids)
    await delete_blobs(connection, [dict(row) for row in rows])
    await release(connection, ids)
    return Place(rows[-1]["created_at"], rows[-1]["id"], len(rows))
