"""Partitions: tables of one day each for what calls share, so that a day can be dropped at once.

Made ahead, one per day and table, empty and then attached, which blocks nobody. A call whose day
has none is stored among the undated, as everything is where the store is not partitioned.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

from proxy.store.connection import Connection

TABLES = ("agent_messages", "agent_chains")
UNDATED = date(1970, 1, 1)
LOCK = 0x646179  # "day" in ASCII
DROP_LOCK_MS = 50  # whoever writes waits no longer for a day to be dropped

_IS_THERE = "SELECT to_regclass($1) IS NOT NULL"
_DAYS = """
SELECT right(c.relname, 8) AS day FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass('agent_messages') AND c.relname ~ '_[0-9]{8}$' ORDER BY 1
"""


async def is_there(connection: Connection, day: date) -> bool:
    """Whether the tables of this day can be written to."""
    return bool(await connection.fetchval(_IS_THERE, _name(TABLES[-1], day)))


async def days(connection: Connection) -> list[date]:
    """The days that have tables of their own, the earliest first."""
    rows = await connection.fetch(_DAYS)
    return [date(int(d[:4]), int(d[4:6]), int(d[6:])) for d in (row["day"] for row in rows)]


async def ensure(connection: Connection, wanted: Iterable[date]) -> None:
    """Make the tables of these days where they are not there."""
    for day in wanted:
        if day == UNDATED or await is_there(connection, day):
            continue
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            for table in TABLES:
                await _make(connection, table, day)


async def drop(connection: Connection, day: date) -> None:
    """Drop the tables of a day; whoever reads them right now goes first.

    Raises StoreUnavailable where that takes longer than a writer may be made to wait: try later.
    """
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = '{DROP_LOCK_MS}ms'")
        for table in TABLES:
            await connection.execute(f"DROP TABLE IF EXISTS {_name(table, day)}")


async def _make(connection: Connection, table: str, day: date) -> None:
    name = _name(table, day)
    if await connection.fetchval(_IS_THERE, name):
        return
    await connection.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")
    await connection.execute(
        f"ALTER TABLE {table} ATTACH PARTITION {name} "
        f"FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')"
    )


def _name(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"
