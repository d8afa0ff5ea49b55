"""Somebody else's connection to the database under test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg


@asynccontextmanager
async def connected(dsn: str, **settings: object) -> AsyncIterator[asyncpg.Connection]:
    """`settings` are those of asyncpg.connect."""
    connection = await asyncpg.connect(dsn, **settings)
    try:
        yield connection
    finally:
        await connection.close()


async def fetched(dsn: str, query: str, *values: object) -> list[asyncpg.Record]:
    """The rows of one query."""
    async with connected(dsn) as connection:
        return await connection.fetch(query, *values)
