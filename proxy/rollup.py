"""Rollup: the task of the recorder that keeps rows added up by time (`store/rollup.py`).

A step is one short transaction, followed by a pause as long as itself; one process at a time
works, under an advisory lock that belongs to the transaction. A table that is taken over is added
up the latest first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

from proxy.errors import RowRejected, StoreMisconfigured, StoreUnavailable
from proxy.log import describe, event
from proxy.store import rollup
from proxy.store.postgres import connect, translated

EVERY_S = 30.0
LOCK = 0x73756D  # "sum" in ASCII; the key of the advisory lock, the same in every version
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock($1)"


class Rollup:
    """Adds up the rows of one database."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def run(self) -> None:
        """Work until cancelled. While the database is away, wait."""
        while True:
            try:
                await self.round(datetime.now(UTC))
            except (StoreUnavailable, StoreMisconfigured, RowRejected) as error:
                event("adding up waits", logging.WARNING, reason=str(error))
            except Exception as error:  # noqa: BLE001 - a fault here must not end the task
                event("adding up failed", logging.ERROR, reason=describe(error))
            await asyncio.sleep(EVERY_S)

    async def round(self, now: datetime) -> int:
        """Add up all that is over; returns how many times of ten minutes that were.

        Raises StoreUnavailable, StoreMisconfigured or RowRejected.
        """
        connection, done = await connect(self._dsn), 0
        try:
            with translated():
                while True:
                    began = time.monotonic()
                    async with connection.transaction():
                        is_ours = await connection.fetchval(_TRY_LOCK, LOCK)
                        found = await rollup.step(connection, now) if is_ours else 0
                    done += found
                    if not found:
                        return done
                    await asyncio.sleep(time.monotonic() - began)
        finally:
            connection.terminate()
