"""Prune: delete shared content that no call refers to any more.

From the end of a history towards its beginning, so that whatever is there has all that it refers
to there. Each step is two statements: lock what nobody refers to, skipping what somebody else has
locked (a writer about to refer to it, see `shared`); then look again, with what was committed
until then, and delete. So what a new call refers to is never deleted, and since only what is
garbage is ever locked, no writer waits. What is skipped or left over is found by `sweep`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import date
from uuid import UUID

from proxy.store.connection import Connection

PAGE_ROWS = 1000

_RELEASE = """
DELETE FROM agent_contexts WHERE call_id = ANY($1) RETURNING day, history, system, schemas
"""
# One look-up in an index for each: NOT EXISTS would be planned as a join with all of the table.
_CHAIN_IS_UNUSED = """
(SELECT TRUE FROM agent_chains n WHERE n.day = $1 AND n.before = c.hash LIMIT 1) IS NULL
    AND (SELECT TRUE FROM agent_contexts x WHERE x.history = c.hash AND x.day = $1 LIMIT 1) IS NULL
"""
_LOCK_CHAINS = f"""
SELECT c.hash FROM agent_chains c WHERE c.day = $1 AND c.hash = ANY($2) AND {_CHAIN_IS_UNUSED}
ORDER BY c.hash FOR UPDATE OF c SKIP LOCKED
"""  # noqa: S608 - the condition is this program's own
_CHAINS = f"""
DELETE FROM agent_chains c WHERE c.day = $1 AND c.hash = ANY($2) AND {_CHAIN_IS_UNUSED}
RETURNING c.before, c.message
"""  # noqa: S608 - as above
_MESSAGE_IS_UNUSED = """
(SELECT TRUE FROM agent_chains n WHERE n.day = $1 AND n.message = m.hash LIMIT 1) IS NULL
    AND (SELECT TRUE FROM agent_contexts x WHERE x.system = m.hash AND x.day = $1 LIMIT 1) IS NULL
    AND (SELECT TRUE FROM agent_contexts x WHERE x.schemas = m.hash AND x.day = $1 LIMIT 1) IS NULL
"""
_LOCK_MESSAGES = f"""
SELECT m.hash FROM agent_messages m WHERE m.day = $1 AND m.hash = ANY($2) AND {_MESSAGE_IS_UNUSED}
ORDER BY m.hash FOR UPDATE OF m SKIP LOCKED
"""  # noqa: S608 - as above
_MESSAGES = f"""
DELETE FROM agent_messages m WHERE m.day = $1 AND m.hash = ANY($2) AND {_MESSAGE_IS_UNUSED}
RETURNING m.hash
"""  # noqa: S608 - as above
_ORPHANS = """
SELECT call_id FROM agent_contexts x WHERE call_id > $1
    AND (SELECT TRUE FROM agent_telemetry t WHERE t.id = x.call_id) IS NULL
ORDER BY call_id LIMIT $2
"""
_PAGE = "SELECT hash, day FROM {table} WHERE (hash, day) > ($1, $2) ORDER BY hash, day LIMIT $3"


async def release(connection: Connection, calls: Collection[UUID]) -> int:
    """Delete what only these calls referred to; returns how many messages that were.

    To be called in the transaction that deletes their rows, or makes them hold everything.
    """
    by_day: dict[date, tuple[set[UUID], set[UUID]]] = {}
    for row in await connection.fetch(_RELEASE, list(calls)):
        histories, messages = by_day.setdefault(row["day"], (set(), set()))
        histories.update(hash for hash in (row["history"],) if hash)
        messages.update(hash for hash in (row["system"], row["schemas"]) if hash)
    pruned = 0
    for day, (histories, messages) in sorted(by_day.items()):
        pruned += await prune(connection, day, histories, messages)
    return pruned


async def prune(
    connection: Connection, day: date, histories: Iterable[UUID], messages: Iterable[UUID]
) -> int:
    """Delete those of the histories and messages that nothing refers to, and what that frees."""
    ends, freed = set(histories), set(messages)
    while ends:
        unused = [row["hash"] for row in await connection.fetch(_LOCK_CHAINS, day, list(ends))]
        deleted = await connection.fetch(_CHAINS, day, unused) if unused else []
        freed |= {row["message"] for row in deleted}
        ends = {row["before"] for row in deleted} - {None}
    if not freed:
        return 0
    unused = [row["hash"] for row in await connection.fetch(_LOCK_MESSAGES, day, list(freed))]
    return len(await connection.fetch(_MESSAGES, day, unused)) if unused else 0


async def sweep(connection: Connection) -> int:
    """Look through everything for what nothing refers to; returns how many messages that were.

    A page is a transaction of its own.
    """
    pruned = 0
    after = UUID(int=0)
    while rows := await connection.fetch(_ORPHANS, after, PAGE_ROWS):
        after = rows[-1]["call_id"]
        async with connection.transaction():
            pruned += await release(connection, [row["call_id"] for row in rows])
    for table in ("agent_chains", "agent_messages"):
        key = UUID(int=0), date.min
        while rows := await connection.fetch(_PAGE.format(table=table), *key, PAGE_ROWS):
            key = rows[-1]["hash"], rows[-1]["day"]
            for day in sorted({row["day"] for row in rows}):
                found = [row["hash"] for row in rows if row["day"] == day]
                is_of_chains = table == "agent_chains"
                async with connection.transaction():
                    pruned += await prune(
                        connection,
                        day,
                        found if is_of_chains else (),
                        () if is_of_chains else found,
                    )
    return pruned
