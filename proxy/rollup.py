"""Rollup: the task of the recorder that keeps rows added up by time (`store/rollup.py`).

A step is one short transaction, followed by a pause as long as itself; one process at a time
works, under an advisory lock that belongs to the transaction. A table that is taken over is added
up the latest first; where rows lie so close that a step takes too long, in smaller steps.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

from proxy.errors import RowRejected, StoreMisconfigured, StoreTooSlow, StoreUnavailable
from proxy.log import describe, event
from proxy.store import rollup
from proxy.store.connection import STATEMENT_TIMEOUT_S, Connection, connect, translated

EVERY_S = 30.0
LOCK = 0x73756D  # "sum" in ASCII; the key of the advisory lock, the same in every version
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock($1)"


class Rollup:
    """Adds up the rows of one database."""

    def __init__(self, dsn: str, statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> None:
        self._dsn = dsn
        self._statement_timeout_s = statement_timeout_s
        self._most = rollup.STEP_MAX

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
        connection = await connect(self._dsn, statement_timeout_s=self._statement_timeout_s)
        done = 0
        try:
            while True:
                began = time.monotonic()
                found = await self._step(connection, now)
                if found == 0:
                    return done
                done += found or 0
                await asyncio.sleep(time.monotonic() - began)
        finally:
            connection.terminate()

    async def _step(self, connection: Connection, now: datetime) -> int | None:
        """How many times were added up; None: these were too many at once."""
        try:
            with translated():
                async with connection.transaction():
                    if not await connection.fetchval(_TRY_LOCK, LOCK):
                        return 0
                    found = await rollup.step(connection, now, self._most)
        except StoreTooSlow:
            if self._most == 1:
                raise
            self._most = max(1, self._most // 8)
            return None
        self._most = min(rollup.STEP_MAX, self._most * 2)
        return found
