"""Transfer: all tables of one database into another, in pieces that are compared first.

The source is read in one snapshot, table by table in order of keys. A piece (some keys in a row)
whose rows are the same on both sides is passed over, so that a copy which broke off goes on where
it stopped, and one that is done again only checks. Where rows differ the source wins: copy before
agents write to the destination. Rows travel as PostgreSQL's binary COPY, untouched.

Digests for linking are keyed with a secret of the database. It travels too, unless the destination
has linked conversations of its own: then rows come without what lies in the tables of linking.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.errors import ProxyError
from proxy.store import partitions
from proxy.store.connection import Connection, connect, translated

PIECE_ROWS = 200  # held in memory at once
LOCK = 0x636F7079  # "copy" in ASCII


@dataclass(frozen=True, slots=True)
class Table:
    """A table, and its key as expressions that sort alike everywhere."""

    name: str
    key: tuple[str, ...]
    is_of_links: bool = False


# What others refer to comes first.
TABLES = (
    Table("agent_secrets", ('name COLLATE "C"',), is_of_links=True),
    Table("agent_blobs", ("sha256",)),
    Table("agent_messages", ("hash", "day")),
    Table("agent_chains", ("hash", "day")),
    Table("agent_contexts", ("call_id",)),
    Table("agent_telemetry", ("id",)),
    Table("agent_links", ("call_id",), is_of_links=True),
    Table("agent_link_keys", ("key", "is_wanted", "created_at", "call_id"), is_of_links=True),
    Table("agent_raw", ("id",)),
    Table("agent_feedback", ("id",)),
    Table("agent_reports", ("id",)),
)

_COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attnum
"""
_SECRET = "SELECT value FROM agent_secrets WHERE name = 'links'"
_HAS_LINKS = "SELECT EXISTS (SELECT FROM agent_links)"
_TRY_LOCK = "SELECT pg_try_advisory_lock($1)"
_UNLOCK = "SELECT pg_advisory_unlock($1)"


@dataclass(slots=True)
class Copied:
    """What became of one table."""

    table: str
    source: int  # rows there
    before: int  # rows that the destination had
    written: int = 0  # new or different
    after: int = 0
    is_skipped: bool = False  # the destination's own links are kept

    @property
    def is_whole(self) -> bool:
        """Whether the destination has as many rows as it must have."""
        return self.is_skipped or self.after >= max(self.source, self.before)


class Transfer:
    """The two ends of a copy. The destination has the current schema already."""

    def __init__(self, source: Connection, destination: Connection) -> None:
        self._source = source
        self._destination = destination

    async def tables(self) -> list[Copied]:
        """How much there is on both sides, and which tables stay out."""
        keeps_links = await self._keeps_links()
        return [
            Copied(
                table.name,
                await self._source.fetchval(f"SELECT count(*) FROM {table.name}"),  # noqa: S608 - our own names
                await self._destination.fetchval(f"SELECT count(*) FROM {table.name}"),  # noqa: S608 - as above
                is_skipped=table.is_of_links and keeps_links,
            )
            for table in TABLES
        ]

    async def run(self, tables: Sequence[Copied], advance: Callable[[int], None]) -> None:
        """Copy the tables; `advance` hears how many rows are done."""
        for table, copied in zip(TABLES, tables, strict=True):
            if not copied.is_skipped:
                await self._copy(table, copied, advance)
            count = f"SELECT count(*) FROM {table.name}"  # noqa: S608 - our own names
            copied.after = await self._destination.fetchval(count)

    async def _keeps_links(self) -> bool:
        ours, theirs = (
            await self._source.fetchval(_SECRET),
            await self._destination.fetchval(_SECRET),
        )
        return ours != theirs and bool(await self._destination.fetchval(_HAS_LINKS))

    async def _copy(self, table: Table, copied: Copied, advance: Callable[[int], None]) -> None:
        columns = await self._columns(table)
        after: tuple[Any, ...] = ()
        while (last := await self._last_key(table, after)) is not None:
            piece = _Piece(table, columns, after, last)
            count = await self._source.fetchval(*piece.count)
            if not await self._is_there(piece):
                copied.written += await self._move(piece)
            advance(count)
            after = last

    async def _columns(self, table: Table) -> list[str]:
        """The columns that both sides have."""
        found = [
            {row["attname"]: None for row in await end.fetch(_COLUMNS, table.name)}
            for end in (self._source, self._destination)
        ]
        return [f'"{name}"' for name in found[0] if name in found[1]]

    async def _last_key(self, table: Table, after: Sequence[Any]) -> tuple[Any, ...] | None:
        """The key that ends the next piece."""
        keys = ", ".join(table.key)
        where = f"({keys}) > ({_places(after, 1)})" if after else "TRUE"
        rows = await self._source.fetch(
            f"SELECT {keys} FROM {table.name} WHERE {where} "  # noqa: S608 - our own names
            f"ORDER BY {keys} LIMIT {PIECE_ROWS}",
            *after,
        )
        return tuple(rows[-1].values()) if rows else None

    async def _is_there(self, piece: _Piece) -> bool:
        """Whether the destination has the same rows. Asked of the source only if it has any."""
        theirs = await self._destination.fetchrow(*piece.digest)
        if theirs is None or theirs["rows"] == 0:
            return False
        return bool(theirs == await self._source.fetchrow(*piece.digest))

    async def _move(self, piece: _Piece) -> int:
        data = io.BytesIO()
        query, *values = piece.content
        await self._source.copy_from_query(query, *values, output=data, format="binary")
        data.seek(0)
        async with self._destination.transaction():
            return await self._put(piece, data)

    async def _put(self, piece: _Piece, data: io.BytesIO) -> int:
        await self._destination.execute(
            f"CREATE TEMPORARY TABLE piece ON COMMIT DROP AS "  # noqa: S608 - our own names
            f"SELECT {piece.names} FROM {piece.table.name} WITH NO DATA"
        )
        await self._destination.copy_to_table(
            "piece", schema_name="pg_temp", source=data, format="binary"
        )
        status: str = await self._destination.execute(piece.merge)
        return int(status.rpartition(" ")[2])


@dataclass(frozen=True, slots=True)
class _Piece:
    """The rows with keys after one and up to another, and what is asked about them."""

    table: Table
    columns: Sequence[str]
    after: tuple[Any, ...]
    last: tuple[Any, ...]

    @property
    def names(self) -> str:
        return ", ".join(self.columns)

    @property
    def keys(self) -> str:
        return ", ".join(self.table.key)

    @property
    def count(self) -> tuple[Any, ...]:
        return self._asked("count(*)")

    @property
    def digest(self) -> tuple[Any, ...]:
        row = f"md5(ROW({self.names})::text)"
        return self._asked(f"count(*) AS rows, md5(string_agg({row}, '' ORDER BY {self.keys}))")

    @property
    def content(self) -> tuple[Any, ...]:
        return self._asked(self.names)

    @property
    def merge(self) -> str:
        """Insert what is new, replace what differs."""
        new = ", ".join(f"excluded.{name}" for name in self.columns)
        old = ", ".join(f"kept.{name}" for name in self.columns)
        changes = ", ".join(f"{name} = excluded.{name}" for name in self.columns)
        keys = ", ".join(key.partition(" ")[0] for key in self.table.key)
        return (
            f"INSERT INTO {self.table.name} AS kept ({self.names}) "  # noqa: S608 - our own names
            f"SELECT {self.names} FROM pg_temp.piece "
            f"ON CONFLICT ({keys}) DO UPDATE SET {changes} WHERE ({old}) IS DISTINCT FROM ({new})"
        )

    def _asked(self, what: str) -> tuple[Any, ...]:
        where = f"({self.keys}) <= ({_places(self.last, 1)})"
        if self.after:
            where += f" AND ({self.keys}) > ({_places(self.after, 1 + len(self.last))})"
        query = f"SELECT {what} FROM {self.table.name} WHERE {where}"  # noqa: S608 - our own names
        return (query, *self.last, *self.after)


async def transfer(
    source: str, destination: str, started: Callable[[int], Callable[[int], None]]
) -> list[Copied]:
    """Copy everything into a migrated database. `started` gets the number of rows to go through.

    Raises StoreUnavailable (do it again, it goes on) or StoreMisconfigured.
    """
    here = await connect(source, statement_timeout_s=0)
    try:
        there = await connect(destination, statement_timeout_s=0)
        try:
            with translated():
                async with (
                    _claimed(there),
                    _claimed(here),
                    here.transaction(isolation="repeatable_read", readonly=True),
                ):
                    work = Transfer(here, there)
                    await partitions.ensure(there, await partitions.days(here))
                    tables = await work.tables()
                    rows = sum(table.source for table in tables if not table.is_skipped)
                    await work.run(tables, started(rows))
        finally:
            there.terminate()
    finally:
        here.terminate()
    return tables


@contextlib.asynccontextmanager
async def _claimed(end: Connection) -> AsyncIterator[None]:
    """One copy at a time into a database, and none into itself.

    Given back by word: the server of a connection that was closed may hold a lock for a while.
    """
    if not await end.fetchval(_TRY_LOCK, LOCK):
        raise ProxyError("--to is the database itself, or another copy runs on one of the two")
    try:
        yield
    finally:
        with contextlib.suppress(ProxyError), translated():
            await end.execute(_UNLOCK, LOCK)


def _places(values: Sequence[Any], first: int) -> str:
    return ", ".join(f"${number}" for number in range(first, first + len(values)))
