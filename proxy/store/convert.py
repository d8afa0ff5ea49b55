"""Convert: rows that hold everything themselves into rows that share, and back.

A batch is one transaction, so a conversion that broke off goes on where it stopped; rows may be
written and read meanwhile. Rows that somebody works on are left for the next pass. What the table
frees is used again by later rows; the file shrinks with VACUUM FULL alone.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from proxy.store.connection import Connection, connect, translated
from proxy.store.postgres import Row
from proxy.store.prune import release
from proxy.store.shared import SharedWriter
from proxy.store.sharing import MESSAGES_MAX, SCHEMAS, Shared

BATCH_ROWS = 25  # of up to some MB each

_IS_FULL = f"""
t.record_type = 'llm_call'
    AND (SELECT TRUE FROM agent_contexts c WHERE c.call_id = t.id) IS NULL
    AND (t.system_prompt <> '' OR t.request_params ?| ARRAY[{", ".join(map(repr, sorted(SCHEMAS)))}]
        OR jsonb_typeof(t.chat_history) = 'array' AND t.chat_history <> '[]')
"""  # noqa: S608 - our own names
_COUNT_FULL = f"SELECT count(*) FROM agent_telemetry t WHERE {_IS_FULL}"  # noqa: S608 - as above
_FULL = f"""
SELECT t.id, t.created_at, t.system_prompt, t.request_params,
    CASE jsonb_typeof(t.chat_history) WHEN 'array' THEN ARRAY(
        SELECT item::text FROM jsonb_array_elements(t.chat_history)
            WITH ORDINALITY AS items (item, n) ORDER BY n) END AS messages
FROM agent_telemetry t WHERE t.id > $1 AND {_IS_FULL}
ORDER BY t.id LIMIT {BATCH_ROWS} FOR UPDATE OF t SKIP LOCKED
"""  # noqa: S608 - as above
_SHARE = """
UPDATE agent_telemetry t SET
    system_prompt = CASE WHEN g.has_system THEN '' ELSE t.system_prompt END,
    chat_history = CASE WHEN g.has_history THEN '[]' ELSE t.chat_history END,
    request_params = COALESCE(g.params::jsonb, t.request_params)
FROM unnest($1::uuid[], $2::boolean[], $3::boolean[], $4::text[])
    AS g (id, has_system, has_history, params)
WHERE t.id = g.id
"""
_COUNT_SHARED = "SELECT count(*) FROM agent_contexts"
_SHARED = f"""
SELECT t.id FROM agent_telemetry t
WHERE t.id > $1 AND (SELECT TRUE FROM agent_contexts c WHERE c.call_id = t.id)
ORDER BY t.id LIMIT {BATCH_ROWS} FOR UPDATE OF t SKIP LOCKED
"""  # noqa: S608 - as above
_RESTORE = """
UPDATE agent_telemetry t SET system_prompt = f.system_prompt, chat_history = f.chat_history,
    request_params = f.request_params
FROM agent_telemetry_full f WHERE f.id = t.id AND t.id = ANY($1)
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """The last row that was looked at, if there was any, and how many were converted."""

    last: UUID | None = None
    converted: int = 0


class _Inexact(ValueError):
    """A number that is another one after reading and writing. Never leaves this module."""


async def share(
    dsn: str, started: Callable[[int], Callable[[int], None]], *, is_partitioned: bool
) -> int:
    """Have all rows share; returns how many did not before.

    Raises StoreUnavailable or StoreMisconfigured; then do it again.
    """
    writer = SharedWriter(is_partitioned=is_partitioned)

    async def batch(connection: Connection, after: UUID) -> Batch:
        rows = [dict(row) for row in await connection.fetch(_FULL, after)]
        return Batch(rows[-1]["id"], await _share(connection, writer, rows)) if rows else Batch()

    return await _passes(dsn, _COUNT_FULL, batch, started)


async def restore(dsn: str, started: Callable[[int], Callable[[int], None]]) -> int:
    """Have all rows hold everything themselves; returns how many did not before."""

    async def batch(connection: Connection, after: UUID) -> Batch:
        ids = [row["id"] for row in await connection.fetch(_SHARED, after)]
        if not ids:
            return Batch()
        await connection.execute(_RESTORE, ids)
        await release(connection, ids)
        return Batch(ids[-1], len(ids))

    return await _passes(dsn, _COUNT_SHARED, batch, started)


async def _passes(
    dsn: str,
    count: str,
    batch: Callable[[Connection, UUID], Awaitable[Batch]],
    started: Callable[[int], Callable[[int], None]],
) -> int:
    """Go over the rows in order of ids until none is left that can be converted."""
    connection = await connect(dsn, statement_timeout_s=0)
    total = 0
    try:
        with translated():
            advance = started(await connection.fetchval(count))
            done = -1
            while done != 0:
                done, after = 0, UUID(int=0)
                while True:
                    async with connection.transaction():
                        found = await batch(connection, after)
                    if found.last is None:
                        break
                    done, after = done + found.converted, found.last
                    advance(found.converted)
                total += done
    finally:
        connection.terminate()
    return total


async def _share(connection: Connection, writer: SharedWriter, rows: Iterable[Row]) -> int:
    """Convert those of the rows that have something to share; returns how many."""
    given: dict[UUID, tuple[datetime, Shared]] = {}
    changes = []
    for row in rows:
        shared, params = _split(row)
        if shared.content:
            given[row["id"]] = row["created_at"], shared
            changes.append((row["id"], shared.system is not None, bool(shared.chain), params))
    if given:
        await writer.write_shared(connection, given)
        await connection.execute(_SHARE, *map(list, zip(*changes, strict=True)))
    return len(given)


def _split(row: Row) -> tuple[Shared, str | None]:
    """What the row is to share; and the parameters that are left, where some are shared."""
    shared, left = Shared(), None
    if row["system_prompt"]:
        shared.add_system(row["system_prompt"])
    messages = row["messages"] or ()
    if 0 < len(messages) <= MESSAGES_MAX and all(text[0] == "{" for text in messages):
        shared.add_history(map(_canonical, messages))
    try:
        params = _exact(row["request_params"] or "null")
        if isinstance(params, dict) and (found := SCHEMAS & params.keys()):
            schemas = {
                name: params[name] for name in found if isinstance(params[name], dict | list)
            }
            if schemas:
                piece = orjson.dumps(schemas, option=orjson.OPT_SORT_KEYS).decode()
                own = {name: value for name, value in params.items() if name not in schemas}
                left = orjson.dumps(own).decode()
                shared.add_schemas(piece)
    except (ValueError, TypeError, RecursionError):  # stays in the row
        left = None
    return shared, left


def _canonical(text: str) -> str:
    """The text that the same message has when it is written first, where that is sure."""
    try:
        return orjson.dumps(_exact(text), option=orjson.OPT_SORT_KEYS).decode()
    except (ValueError, TypeError, RecursionError):
        return text


def _exact(text: str) -> Any:
    """The value of JSON text. Raises ValueError where a number would not survive."""
    return json.loads(text, parse_float=_float)


def _float(text: str) -> float:
    value = float(text)
    if repr(value) != text:
        raise _Inexact
    return value
