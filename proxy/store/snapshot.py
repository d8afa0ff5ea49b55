"""Snapshot: everything as it was committed at one instant, row by row, for what reads a lot.

One read-only transaction on a connection of its own, with server-side cursors: neither side holds
more than a few hundred rows. Further queries may run while a cursor is open.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from proxy.store.connection import Connection, connect, translated
from proxy.store.postgres import Row

FETCHED_ROWS = 500


class Snapshot:
    """What can be read inside the transaction. Raises StoreUnavailable or StoreMisconfigured."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def rows(
        self, query: str, *values: Any, fetched: int = FETCHED_ROWS
    ) -> AsyncIterator[Row]:
        """The rows of a query one by one, JSON columns as values, integers exact."""
        with translated():
            async for row in self._connection.cursor(query, *values, prefetch=fetched):
                yield dict(row)

    async def fetch(self, query: str, *values: Any) -> list[Row]:
        """The rows of a query that gives few."""
        with translated():
            return [dict(row) for row in await self._connection.fetch(query, *values)]


@contextlib.asynccontextmanager
async def snapshot(dsn: str) -> AsyncIterator[Snapshot]:
    """Open one. Sorting a large table takes its time: no limit is set on a statement."""
    connection = await connect(dsn, statement_timeout_s=0)
    try:
        with translated():
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
            )
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield Snapshot(connection)
    finally:
        connection.terminate()
