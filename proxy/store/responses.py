"""Responses: rows of calls whose response had not ended when they were recorded."""

from __future__ import annotations

from proxy.store.postgres import Row, Store

IS_OPEN = "(finish_reason IS NULL OR finish_reason IN ('queued', 'in_progress'))"
"""The condition on such a row, and that of its index."""

_BEGUN = f"""
SELECT * FROM agent_telemetry_full
WHERE endpoint = 'responses' AND capture ->> 'response_id' = $1 AND provider = $2 AND {IS_OPEN}
ORDER BY created_at LIMIT 1
"""  # noqa: S608 - the condition is this program's own


async def begun(store: Store, response_id: str, provider: str) -> Row | None:
    """The row of the call that began this response, while it is open."""
    rows = await store.fetch(_BEGUN, response_id, provider)
    return rows[0] if rows else None
