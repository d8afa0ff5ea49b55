"""Viewer: the database as the web page reads it, and nothing else.

A few connections, opened when needed; each page is one read-only transaction with a limit on every
statement. The queries are the files in `queries/`, where foreign values are parameters.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import cache
from importlib import resources
from typing import Any

from proxy.errors import RowRejected
from proxy.store.channel import Listener, listening
from proxy.store.connection import Connection, connect, translated
from proxy.store.postgres import Row

CONNECTIONS_MAX = 4
STATEMENT_TIMEOUT_S = 60.0


class Viewer:
    """Reads for any number of pages at a time. Raises StoreUnavailable or StoreMisconfigured."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Reading]:
        """One snapshot of the database."""
        async with self._slots:
            connection = await self._connected()
            try:
                with translated():
                    async with connection.transaction(isolation="repeatable_read", readonly=True):
                        yield Reading(connection)
            except BaseException:  # nobody knows what is under way on it
                connection.terminate()
                raise
            self._idle.append(connection)

    def listen(self) -> contextlib.AbstractAsyncContextManager[Listener]:
        """Hear of every batch that is committed from now on."""
        return listening(self._dsn)

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().terminate()

    async def _connected(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        connection = await connect(self._dsn, statement_timeout_s=STATEMENT_TIMEOUT_S)
        with translated():
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
            )
        return connection


class Reading:
    """What may be read inside one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def rows(self, name: str, *values: Any) -> list[Row]:
        """The rows of a query by the name of its file, JSON columns as values.

        Raises RowRejected where a value is none that PostgreSQL takes.
        """
        return await self.fetch(query(name), *values)

    async def prepare_for_much(self) -> None:
        """Let the statements that follow sort in memory what is read of a long span."""
        await self.fetch("SELECT set_config('work_mem', '64MB', TRUE)")

    async def fetch(self, text: str, *values: Any) -> list[Row]:
        """The rows of a query by its text, as above."""
        with translated():
            try:
                found = await self._connection.fetch(text, *values)
            except (ValueError, OverflowError):  # the driver's own refusal
                raise RowRejected("22000") from None
        return [dict(row) for row in found]


@cache
def query(name: str) -> str:
    """The text of `queries/NAME.sql`."""
    file = resources.files("proxy.store") / "queries" / f"{name}.sql"
    return file.read_text(encoding="utf-8")
