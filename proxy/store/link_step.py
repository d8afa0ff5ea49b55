"""Step: what the linker reads and writes in one transaction.

It reads what is known of calls, and writes where they belong, what is left open, and the rows of
turns that ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from proxy.record import COLUMNS, TelemetryRecord
from proxy.store.channel import announce
from proxy.store.connection import Connection
from proxy.store.postgres import Row
from proxy.store.storable import session_of, storable
from proxy.turn import Facts, Placement, Reported, conversation_id

CANDIDATES_MAX = 32  # calls considered for one key, the nearest in time
CALLS_MAX = 5000  # of one conversation, the latest

_PENDING = """
SELECT call_id, facts FROM agent_links WHERE is_pending ORDER BY created_at, call_id LIMIT $1
"""
_DUE = """
SELECT DISTINCT conversation FROM (
    SELECT conversation FROM agent_links WHERE due_at <= $1 ORDER BY due_at LIMIT $2
) AS due
"""
_LOADED = "call_id, facts, placement, is_pending, due_at"
_AROUND = f"""
WITH asked AS (
    SELECT * FROM unnest($1::text[], $2::boolean[], $3::timestamptz[]) AS a (key, is_wanted, at)
), found AS (
    SELECT k.call_id FROM asked a CROSS JOIN LATERAL (
        SELECT call_id FROM agent_link_keys
        WHERE key = a.key AND NOT is_wanted AND created_at <= a.at
        ORDER BY created_at DESC LIMIT {CANDIDATES_MAX}
    ) k WHERE a.is_wanted
    UNION
    SELECT k.call_id FROM asked a CROSS JOIN LATERAL (
        SELECT call_id FROM agent_link_keys
        WHERE key = a.key AND is_wanted AND created_at >= a.at
        ORDER BY created_at LIMIT {CANDIDATES_MAX}
    ) k WHERE NOT a.is_wanted
), touched AS (
    SELECT DISTINCT l.conversation FROM found JOIN agent_links l USING (call_id)
    WHERE l.conversation IS NOT NULL
    UNION SELECT unnest($4::uuid[])
), context AS (
    SELECT DISTINCT other.conversation FROM touched t
    JOIN agent_links l ON l.conversation = t.conversation
        AND l.placement ->> 'evidence' <> 'tool call id'
    JOIN agent_link_keys w ON w.call_id = l.call_id AND w.is_wanted
    CROSS JOIN LATERAL (
        SELECT call_id FROM agent_link_keys
        WHERE key = w.key AND NOT is_wanted AND created_at <= w.created_at
        ORDER BY created_at DESC LIMIT {CANDIDATES_MAX}
    ) k
    JOIN agent_links other ON other.call_id = k.call_id
    WHERE other.conversation IS NOT NULL
        AND other.conversation NOT IN (SELECT conversation FROM touched)
)
SELECT l.*, FALSE AS is_context FROM touched t CROSS JOIN LATERAL (
    SELECT {_LOADED} FROM agent_links WHERE conversation = t.conversation
        AND (placement IS NOT NULL OR call_id = ANY($5::uuid[]))
    ORDER BY created_at DESC LIMIT {CALLS_MAX}
) l
UNION SELECT {_LOADED}, FALSE FROM agent_links WHERE call_id = ANY($5::uuid[])
UNION ALL SELECT l.*, TRUE FROM context c CROSS JOIN LATERAL (
    SELECT {_LOADED} FROM agent_links WHERE conversation = c.conversation
    ORDER BY created_at DESC LIMIT {CALLS_MAX}
) l WHERE l.placement IS NOT NULL AND l.call_id <> ALL($5::uuid[])
"""  # noqa: S608 - columns and limits are this program's own
_KEYS = """
INSERT INTO agent_link_keys (key, is_wanted, created_at, call_id)
SELECT * FROM unnest($1::text[], $2::boolean[], $3::timestamptz[], $4::uuid[])
ON CONFLICT DO NOTHING
"""
_PLACE = """
UPDATE agent_links l
SET conversation = p.conversation, placement = p.placement::jsonb, is_pending = FALSE
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS p (call_id, conversation, placement)
WHERE l.call_id = p.call_id
"""
# A row of a socket keeps the socket as its parent: only what was written here is replaced.
_PLACE_ROWS = """
UPDATE agent_telemetry t SET
    session_id = p.session_id, turn_id = p.turn_id, round = p.round,
    parent_id = CASE
        WHEN t.parent_id IS NULL OR t.parent_id::text = t.capture #>> '{link,parent}'
        THEN p.parent_id ELSE t.parent_id END,
    capture = COALESCE(t.capture, '{}') || p.capture::jsonb
FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::integer[], $5::uuid[], $6::text[])
    AS p (id, session_id, turn_id, round, parent_id, capture)
WHERE t.id = p.id
"""
_OPEN = """
UPDATE agent_links l SET due_at = d.due_at
FROM unnest($1::uuid[], $2::timestamptz[]) AS d (call_id, due_at)
WHERE l.call_id = d.call_id AND l.due_at IS DISTINCT FROM d.due_at
"""
# Turns that are idle, and too far back in their conversation to be looked at.
_LEAVE = """
UPDATE agent_links SET due_at = NULL
WHERE due_at <= $1 AND conversation = ANY($2::uuid[]) AND call_id <> ALL($3::uuid[])
"""
_CONTENT_COLUMNS = (
    *("id", "user_message", "model_used", "response_text", "tool_calls", "turn_intent"),
    *("chat_mode", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"),
    *("cache_write_tokens", "reasoning_tokens", "cost_usd", "provider", "client", "labels"),
    "project_id",
)
_CONTENT = f"""
SELECT {", ".join(f"t.{name}" for name in _CONTENT_COLUMNS)}, l.outputs
FROM agent_telemetry t LEFT JOIN agent_links l ON l.call_id = t.id WHERE t.id = ANY($1)
"""  # noqa: S608 - column names are this program's own
_SUMMARIES = """
SELECT id, stop_reason, rounds, tool_call_count FROM agent_telemetry
WHERE id = ANY($1) AND record_type = 'turn_summary'
"""
# A report may name a turn whose calls bear another session than it does itself.
_PENDING_REPORTS = """
SELECT r.id, r.conversation, (
    SELECT l.conversation FROM agent_telemetry t JOIN agent_links l ON l.call_id = t.id
    WHERE t.turn_id = r.turn_id LIMIT 1
) AS of_turn
FROM agent_reports r WHERE r.is_pending ORDER BY r.created_at, r.id LIMIT $1
"""
_REPORTS = """
SELECT id, created_at, conversation, turn_id, report, applied_to, is_pending FROM agent_reports
WHERE turn_id IS NULL AND conversation = ANY($1)
UNION ALL
SELECT id, created_at, conversation, turn_id, report, applied_to, is_pending FROM agent_reports
WHERE turn_id = ANY($2)
"""
# Calls that may have another place now that these others were given to the calls they wanted.
_DISTURBED = """
UPDATE agent_links SET is_pending = TRUE WHERE NOT is_pending AND call_id IN (
    SELECT w.call_id FROM unnest($1::uuid[], $2::timestamptz[]) AS moved (parent_id, at)
    JOIN agent_link_keys g ON g.call_id = moved.parent_id AND NOT g.is_wanted
    JOIN agent_link_keys w ON w.key = g.key AND w.is_wanted AND w.created_at > moved.at
        AND w.created_at < moved.at + INTERVAL '10 minutes'
) AND conversation <> ALL($3::uuid[])
"""
_APPLIED = """
UPDATE agent_reports r SET applied_to = a.turn_id, is_pending = FALSE
FROM unnest($1::uuid[], $2::uuid[]) AS a (id, turn_id) WHERE r.id = a.id
"""
_NAMES = ", ".join(COLUMNS)
_SUMMARY = f"""
INSERT INTO agent_telemetry AS kept ({_NAMES})
VALUES ({", ".join(f"${number + 1}" for number in range(len(COLUMNS)))})
ON CONFLICT (id) DO UPDATE
SET {", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name != "id")}
WHERE kept.record_type = 'turn_summary'
"""  # noqa: S608 - column names are this program's own
_FORGET = "DELETE FROM agent_telemetry WHERE id = ANY($1) AND record_type = 'turn_summary'"


@dataclass(frozen=True, slots=True)
class Known:
    """A call as the linker knows it."""

    facts: Facts
    placement: Placement | None
    is_pending: bool
    due_at: datetime | None
    is_context: bool = False  # only to compare with: its own place is judged when it has news


@dataclass(frozen=True, slots=True)
class Asked:
    """Keys to look up for one call: what it wants of earlier ones, what it gives to later ones."""

    at: datetime
    wanted: frozenset[str]
    given: frozenset[str]


class Step:
    """What may be read and written in one transaction of the linker."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def pending(self, limit: int) -> list[Facts]:
        """Calls that have not been placed yet, the earliest first."""
        rows = await self._connection.fetch(_PENDING, limit)
        return [Facts.from_json(json.loads(row["facts"])) for row in rows]

    async def due(self, now: datetime, limit: int) -> list[UUID]:
        """Conversations with a turn that counts as idle by now."""
        rows = await self._connection.fetch(_DUE, now, limit)
        return [row["conversation"] for row in rows]

    async def pending_reports(self, limit: int) -> dict[UUID, set[UUID]]:
        """Reports that were not looked at yet, and the conversations they may be about."""
        rows = await self._connection.fetch(_PENDING_REPORTS, limit)
        return {
            row["id"]: {row["conversation"], *([row["of_turn"]] if row["of_turn"] else [])}
            for row in rows
        }

    async def reports(self, conversations: Iterable[UUID], turns: Iterable[UUID]) -> list[Reported]:
        """All reports on these conversations' latest turns, and on these turns."""
        rows = await self._connection.fetch(_REPORTS, list(conversations), list(turns))
        return [
            Reported(
                row["id"],
                row["created_at"],
                row["conversation"],
                row["turn_id"],
                json.loads(row["report"]),
                row["applied_to"],
                row["is_pending"],
            )
            for row in rows
        ]

    async def note_applied(self, applied: Mapping[UUID, UUID | None]) -> None:
        """Which turn each report was applied to; None: there is none yet."""
        await self._connection.execute(_APPLIED, *_columns(list(applied.items()), 2))

    async def around(
        self, asked: Iterable[Asked], conversations: Iterable[UUID], calls: Iterable[UUID]
    ) -> list[Known]:
        """These calls, all of the conversations that are named or that share a key, and as context
        those with which calls of these were compared."""
        keys = [
            (key, is_wanted, each.at)
            for each in asked
            for is_wanted, found in ((True, each.wanted), (False, each.given))
            for key in sorted(found)
        ]
        rows = await self._connection.fetch(
            _AROUND, *_columns(keys, 3), list(conversations), list(calls)
        )
        return [_known(row) for row in rows]

    async def place(
        self, placed: Mapping[UUID, tuple[Facts, Placement]], keys: Mapping[UUID, Asked]
    ) -> None:
        """Write where calls belong, beside them and into their rows."""
        links, rows = [], []
        for id, (facts, where) in placed.items():
            conversation = conversation_id(facts.project, where.session)
            links.append((id, conversation, orjson.dumps(where.as_json()).decode()))
            noted: dict[str, Any] = {
                "link": {
                    "kind": where.kind,
                    "evidence": where.evidence,
                    "thread": where.thread,
                    "parent": where.parent,
                    "version": where.version,
                }
            }
            if facts.session is None:
                noted["session_source"] = "inferred"
            capture = orjson.dumps(noted).decode()
            session = session_of(where.session)
            rows.append((id, session, where.turn, where.round, where.parent, capture))
        await self._connection.execute(_PLACE, *_columns(links, 3))
        await self._connection.execute(_PLACE_ROWS, *_columns(rows, 6))
        listed = [
            (key, is_wanted, each.at, id)
            for id, each in keys.items()
            for is_wanted, found in ((True, each.wanted), (False, each.given))
            for key in sorted(found)
        ]
        await self._connection.execute(_KEYS, *_columns(listed, 4))

    async def disturb(self, moved: Iterable[tuple[UUID, datetime]], judged: Iterable[UUID]) -> None:
        """Have calls of other conversations judged again that want what these parents gave.

        `moved` are parents, with the arrival of the call that was given to them or taken away.
        """
        await self._connection.execute(_DISTURBED, *_columns(list(moved), 2), list(judged))

    async def keep_open(self, due: Mapping[UUID, datetime | None]) -> None:
        """When the turns whose last calls these are count as idle; None: they have ended."""
        await self._connection.execute(_OPEN, *_columns(list(due.items()), 2))

    async def leave(self, now: datetime, due: Sequence[UUID], known: Iterable[UUID]) -> None:
        """Ask no more for idle turns of these conversations whose calls `around` does not reach."""
        await self._connection.execute(_LEAVE, now, list(due), list(known))

    async def content(self, calls: Sequence[UUID]) -> dict[UUID, Row]:
        """What a summary says of these calls: texts, tools, results, tokens."""
        rows = await self._connection.fetch(_CONTENT, list(calls))
        return {row["id"]: _with_json(dict(row)) for row in rows}

    async def summaries(self, ids: Sequence[UUID]) -> dict[UUID, Row]:
        """What was said before of turns, by the ids of their rows."""
        rows = await self._connection.fetch(_SUMMARIES, list(ids))
        return {row["id"]: dict(row) for row in rows}

    async def write_summaries(self, records: Sequence[TelemetryRecord]) -> None:
        """Write or rewrite the rows of ended turns, and announce them."""
        await self._connection.executemany(_SUMMARY, [storable(record) for record in records])
        await announce(self._connection, [record.id for record in records])

    async def forget_summaries(self, ids: Sequence[UUID]) -> None:
        """Delete the rows of turns that turned out to be part of others."""
        await self._connection.execute(_FORGET, list(ids))


def _known(row: Mapping[str, Any]) -> Known:
    placement = row["placement"]
    return Known(
        Facts.from_json(json.loads(row["facts"])),
        Placement.from_json(json.loads(placement)) if placement else None,
        row["is_pending"],
        row["due_at"],
        row["is_context"],
    )


def _with_json(row: Row) -> Row:
    for name in ("tool_calls", "labels", "outputs"):
        row[name] = json.loads(row[name]) if row[name] else None
    return row


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Rows as one list per column, as unnest takes them."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
