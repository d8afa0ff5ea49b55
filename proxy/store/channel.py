"""Channel: the ids of what is committed, announced in its transaction, and heard by who listens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from proxy.errors import StoreUnavailable
from proxy.store.connection import Connection, connect, translated

CHANNEL = "agent_telemetry"
NOTIFIED_MAX = 240  # ids in one notification: 33 characters each, 8,000 bytes at most


async def announce(connection: Connection, ids: Sequence[UUID]) -> None:
    """Tell who listens of these rows, once the transaction is committed."""
    for start in range(0, len(ids), NOTIFIED_MAX):
        payload = ",".join(id.hex for id in ids[start : start + NOTIFIED_MAX])
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)


@contextlib.asynccontextmanager
async def listening(dsn: str) -> AsyncIterator[Listener]:
    """Hear of every batch that is committed from now on. Uses a connection of its own."""
    connection = await connect(dsn)
    try:
        listener = Listener(connection)
        with translated():
            await connection.add_listener(CHANNEL, listener.heard)
        yield listener
    finally:
        connection.terminate()


class Listener:
    """What was announced on the channel and not yet taken."""

    def __init__(self, connection: Connection) -> None:
        self._announced: asyncio.Queue[tuple[UUID, ...]] = asyncio.Queue()
        self._connection = connection
        connection.add_termination_listener(self._ended)

    def heard(self, connection: object, pid: int, channel: str, payload: object) -> None:
        """Called by the driver. Anybody may notify: what is no list of ids is ignored."""
        with contextlib.suppress(ValueError):
            self._announced.put_nowait(tuple(UUID(hex=part) for part in str(payload).split(",")))

    async def next(self, timeout_s: float) -> tuple[UUID, ...]:
        """The ids of the next batch, or none after a while. Raises StoreUnavailable."""
        if self._connection.is_closed() and self._announced.empty():
            raise StoreUnavailable("the connection to PostgreSQL was lost")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._announced.get()
        except TimeoutError:
            return ()

    def _ended(self, connection: object) -> None:
        self._announced.put_nowait(())
