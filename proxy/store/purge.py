"""Purge: delete rows with everything that is kept beside them, in small batches.

A batch is one short transaction that locks only the rows it deletes; recorders go on meanwhile. A
medium is locked before it is asked whether a row still refers to it, and skipped where a writer
has it locked: that writer is about to refer to it (see `beside`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from proxy.store.connection import Connection, connect, translated
from proxy.store.postgres import Row, Store
from proxy.store.prune import release

BATCH_ROWS = 500

_COUNT = """
SELECT count(*) FILTER (WHERE record_type = 'llm_call') AS calls,
    count(*) FILTER (WHERE record_type = 'turn_summary') AS turns,
    count(DISTINCT (project_id, session_id)) AS conversations,
    min(created_at) AS oldest, max(created_at) AS newest
FROM agent_telemetry WHERE {where}
"""
# In order of time, so that no batch looks again at what earlier ones have deleted; locked in that
# order, so that two purges of the same rows wait for each other and not in a circle.
_ROWS = """
DELETE FROM agent_telemetry WHERE id IN (
    SELECT id FROM agent_telemetry WHERE {where} AND created_at >= {after}
    ORDER BY created_at, id LIMIT {limit} FOR UPDATE
)
RETURNING id, created_at, turn_id, project_id, session_id,
    CASE jsonb_typeof(capture -> 'blobs') WHEN 'array' THEN capture -> 'blobs' END AS blobs
"""
_LINKS = "DELETE FROM agent_links WHERE call_id = ANY($1)"  # their keys go with them
_RAW = "DELETE FROM agent_raw WHERE id = ANY($1)"
_FEEDBACK = """
DELETE FROM agent_feedback f WHERE f.call_id = ANY($1)
    OR f.call_id IS NULL AND f.turn_id = ANY($2) AND NOT EXISTS (
        SELECT FROM agent_telemetry t WHERE t.turn_id = f.turn_id)
    OR f.call_id IS NULL AND f.turn_id IS NULL AND f.session_id = ANY($3) AND NOT EXISTS (
        SELECT FROM agent_telemetry t
        WHERE t.session_id = f.session_id AND t.project_id IS NOT DISTINCT FROM f.project_id)
"""
_REPORTS = """
DELETE FROM agent_reports r WHERE r.applied_to = ANY($1) AND NOT EXISTS (
        SELECT FROM agent_telemetry t WHERE t.turn_id = r.applied_to)
    OR r.applied_to IS NULL AND r.session_id = ANY($2) AND NOT EXISTS (
        SELECT FROM agent_telemetry t
        WHERE t.session_id = r.session_id AND t.project_id IS NOT DISTINCT FROM r.project_id)
"""
_LOCK_BLOBS = "SELECT sha256 FROM agent_blobs WHERE sha256 = ANY($1) FOR UPDATE SKIP LOCKED"
_BLOBS = """
DELETE FROM agent_blobs b WHERE sha256 = ANY($1) AND NOT EXISTS (
    SELECT FROM agent_telemetry t
    WHERE t.capture ? 'blobs' AND t.capture -> 'blobs' ? encode(b.sha256, 'hex'))
"""
# What never became a row, and what was said of conversations that have none.
_RAW_ALONE = """
DELETE FROM agent_raw WHERE id IN (
    SELECT id FROM agent_raw WHERE created_at < $1 ORDER BY created_at LIMIT $2)
"""
_FEEDBACK_ALONE = """
DELETE FROM agent_feedback f WHERE {where} AND NOT EXISTS (
    SELECT FROM agent_telemetry t WHERE t.id = f.call_id OR t.turn_id = f.turn_id
        OR t.session_id = f.session_id AND t.project_id IS NOT DISTINCT FROM f.project_id)
"""
_REPORTS_ALONE = """
DELETE FROM agent_reports r WHERE {where} AND r.applied_to IS NULL AND NOT EXISTS (
    SELECT FROM agent_telemetry t
    WHERE t.session_id = r.session_id AND t.project_id IS NOT DISTINCT FROM r.project_id)
"""


@dataclass(frozen=True, slots=True)
class Scope:
    """Rows that meet every condition that is set; `before` is not included."""

    before: datetime
    project: str | None = None
    session: str | None = None

    def where(self, place: Callable[[Any], str]) -> str:
        """The condition; `place` takes a value and gives its place among the parameters."""
        conditions = [f"created_at < {place(self.before)}"]
        if self.project is not None:
            conditions.append(f"project_id = {place(self.project)}")
        if self.session is not None:
            conditions.append(f"session_id = {place(self.session)}")
        return " AND ".join(conditions)

    @property
    def is_of_time_alone(self) -> bool:
        return self.project is None and self.session is None


@dataclass(frozen=True, slots=True)
class Extent:
    """What a scope holds."""

    calls: int
    turns: int
    conversations: int
    oldest: datetime | None
    newest: datetime | None

    @property
    def rows(self) -> int:
        return self.calls + self.turns


@dataclass(slots=True)
class Purged:
    """What has been deleted."""

    rows: int = 0
    raw: int = 0
    feedback: int = 0  # reports of turns included
    blobs: int = 0
    messages: int = 0  # of those that calls shared


async def extent(store: Store, scope: Scope) -> Extent:
    """What would be deleted."""
    values: list[Any] = []
    where = scope.where(_placing(values))
    (row,) = await store.fetch(_COUNT.format(where=where), *values)
    return Extent(**row)


async def purge(dsn: str, scope: Scope, advance: Callable[[int], None]) -> Purged:
    """Delete all of it. Raises StoreUnavailable or StoreMisconfigured; then do it again."""
    purged = Purged()
    connection = await connect(dsn)
    try:
        with translated():
            after: datetime | None = None
            while rows := await delete_batch(connection, scope, after, purged):
                after = max(row["created_at"] for row in rows)
                advance(len(rows))
            await delete_alone(connection, scope, purged)
    finally:
        connection.terminate()
    return purged


async def delete_batch(
    connection: Connection, scope: Scope, after: datetime | None, purged: Purged
) -> list[Row]:
    """Delete some of the rows, and what nothing needs any more without them."""
    values: list[Any] = []
    place = _placing(values)
    query = _ROWS.format(
        where=scope.where(place), after=place(after) if after else "'-infinity'", limit=BATCH_ROWS
    )
    async with connection.transaction():
        rows = [dict(row) for row in await connection.fetch(query, *values)]
        if not rows:
            return rows
        ids = [row["id"] for row in rows]
        purged.rows += len(rows)
        await connection.execute(_LINKS, ids)
        purged.raw += _affected(await connection.execute(_RAW, ids))
        turns = list({row["turn_id"] for row in rows if row["turn_id"]})
        sessions = list({row["session_id"] for row in rows if row["session_id"]})
        purged.feedback += _affected(await connection.execute(_FEEDBACK, ids, turns, sessions))
        purged.feedback += _affected(await connection.execute(_REPORTS, turns, sessions))
        purged.blobs += await delete_blobs(connection, rows)
        purged.messages += await release(connection, ids)
    return rows


async def delete_blobs(connection: Connection, rows: Iterable[Row]) -> int:
    """Delete the media of these rows that no other row refers to."""
    named = {key for row in rows for key in json.loads(row["blobs"] or "[]")}
    keys = [bytes.fromhex(key) for key in sorted(named)]
    if not keys:
        return 0
    # Two statements: the second must see what was committed while the first waited for nothing.
    locked = [row["sha256"] for row in await connection.fetch(_LOCK_BLOBS, keys)]
    return _affected(await connection.execute(_BLOBS, locked))


async def delete_alone(connection: Connection, scope: Scope, purged: Purged) -> None:
    """Delete what lies in the scope without a row."""
    values: list[Any] = []
    where = scope.where(_placing(values))
    for statement in (_FEEDBACK_ALONE, _REPORTS_ALONE):
        done = await connection.execute(statement.format(where=where), *values)
        purged.feedback += _affected(done)
    while scope.is_of_time_alone:
        count = _affected(await connection.execute(_RAW_ALONE, scope.before, BATCH_ROWS))
        purged.raw += count
        if count < BATCH_ROWS:
            return


def _placing(values: list[Any]) -> Callable[[Any], str]:
    def place(value: Any) -> str:
        values.append(value)
        return f"${len(values)}"

    return place


def _affected(status: str) -> int:
    """The number of rows from the answer to a statement, such as `DELETE 3`."""
    return int(status.rpartition(" ")[2])
