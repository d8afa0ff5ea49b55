"""Links: the linker's connection, and the steps in which it works.

One `Step` is one transaction under an advisory lock that any number of linkers compete for: what
it reads cannot be changed by another, and all it decides is committed together or not at all. The
lock belongs to the transaction, so a linker that dies holds nothing up, and poolers do no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Self

from proxy.store.beside import write_links
from proxy.store.connection import Connection, connect, translated
from proxy.store.link_step import Step
from proxy.turn import Link

LOCK = 0x6C696E6B  # "link" in ASCII; the key of the advisory lock, the same in every version

_TRY_LOCK = "SELECT pg_try_advisory_xact_lock($1)"
_SECRET = "SELECT value FROM agent_secrets WHERE name = 'links'"
_IS_BEHIND = "SELECT EXISTS (SELECT FROM agent_links WHERE is_pending)"
_SKIP_PENDING = """
UPDATE agent_links SET is_pending = FALSE WHERE call_id = (
    SELECT call_id FROM agent_links WHERE is_pending ORDER BY created_at, call_id LIMIT 1
)
"""
_SKIP_DUE = """
UPDATE agent_links SET due_at = NULL WHERE call_id = (
    SELECT call_id FROM agent_links WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1
)
"""
_AGAIN = "UPDATE agent_links SET is_pending = TRUE WHERE created_at >= $1"


class LinkStore:
    """The linker's connection, opened when first needed."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def secret(self) -> bytes:
        """The key of the digests. Raises StoreUnavailable or StoreMisconfigured."""
        connection = await self._connected()
        with translated():
            found: bytes = await connection.fetchval(_SECRET)
        return found

    async def judge_again(self, since: datetime) -> None:
        """Have every call since then placed again."""
        connection = await self._connected()
        with translated():
            await connection.execute(_AGAIN, since)

    async def rewrite(self, links: Iterable[Link]) -> None:
        """Replace what is known of calls; they will be placed again."""
        connection = await self._connected()
        with translated():
            await write_links(connection, links)

    async def set_first_aside(self) -> None:
        """Leave the first pending call as it is; where none is pending, the first idle turn."""
        connection = await self._connected()
        with translated():
            if await connection.execute(_SKIP_PENDING) == "UPDATE 0":
                await connection.execute(_SKIP_DUE)

    async def is_behind(self) -> bool:
        """Whether there are calls that have not been placed."""
        connection = await self._connected()
        with translated():
            found: bool = await connection.fetchval(_IS_BEHIND)
        return found

    @contextlib.asynccontextmanager
    async def step(self) -> AsyncIterator[Step | None]:
        """A transaction of the one linker that may work now; None where another one does.

        Raises StoreUnavailable, StoreMisconfigured or RowRejected; nothing is changed then.
        """
        try:
            with translated():
                connection = await self._connected()
                async with connection.transaction():
                    is_ours = await connection.fetchval(_TRY_LOCK, LOCK)
                    yield Step(connection) if is_ours else None
        except asyncio.CancelledError:
            await self.close()  # nobody knows what is under way
            raise

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._dsn)
        return self._connection
