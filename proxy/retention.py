"""Retention: what is older than it may be is deleted, a little at a time, while rows are written.

A task of the recorder. It makes the days' tables ahead where the store is partitioned, drops those
that hold nothing but expired payload, deletes rows with all that lies beside them, takes the
payload of others, and once a day looks for shared content that nothing refers to. A batch is one
short transaction, followed by a pause as long as itself; one process at a time works, under an
advisory lock that belongs to the transaction.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from proxy import config
from proxy.errors import RowRejected, StoreMisconfigured, StoreUnavailable
from proxy.log import describe, event
from proxy.store import partitions
from proxy.store.connection import Connection, connect, translated
from proxy.store.expire import Place, expire_batch
from proxy.store.prune import sweep
from proxy.store.purge import Purged, Scope, delete_alone, delete_batch
from proxy.store.transfer import LOCK as COPY

EVERY_S = 60.0
DAILY, FIRST = timedelta(days=1), timedelta(hours=1)  # after the start, for the first time
AHEAD_DAYS = 2
LOCK = 0x6F6C64  # "old" in ASCII; the key of the advisory lock, the same in every version
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock($1)"
_SHARES = "SELECT EXISTS (SELECT FROM agent_contexts)"
# A copy brings content before what refers to it.
_IS_COPIED = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = $1)"
_BEGINNING = Place(datetime(1, 1, 2, tzinfo=UTC), UUID(int=0))


@dataclass(slots=True)
class Done:
    """What one round did."""

    days_dropped: int = 0
    rows_deleted: int = 0
    rows_expired: int = 0
    messages_swept: int = 0


class Retention:
    """Keeps one database within the limits of its age."""

    def __init__(self, dsn: str, settings: config.Store) -> None:
        self._dsn = dsn
        self._settings = settings
        self._expired_to = _BEGINNING
        self._looked_again_at: datetime | None = None

    async def run(self) -> None:
        """Work until cancelled. While the database is away, wait."""
        while True:
            try:
                done = await self.round(datetime.now(UTC))
            except (StoreUnavailable, StoreMisconfigured, RowRejected) as error:
                event("retention waits", logging.WARNING, reason=str(error))
            except Exception as error:  # noqa: BLE001 - a fault here must not end the task
                event("retention failed", logging.ERROR, reason=describe(error))
            else:
                if done != Done():
                    event("retention", **asdict(done))
            await asyncio.sleep(EVERY_S)

    async def round(self, now: datetime) -> Done:
        """Everything that is due. Raises StoreUnavailable, StoreMisconfigured or RowRejected."""
        done = Done()
        connection = await connect(self._dsn)
        try:
            with translated():
                await self._make_days(connection, now)
            await self._drop_days(connection, now, done)
            with translated():
                await self._delete(connection, now, done)
                await self._expire(connection, now, done)
                await self._look_again(connection, now, done)
        finally:
            connection.terminate()
        return done

    def _limit(self, days: int | None, now: datetime) -> datetime | None:
        return None if days is None else now - timedelta(days=days)

    async def _make_days(self, connection: Connection, now: datetime) -> None:
        if self._settings.partitions:
            ahead = [now.date() + timedelta(days=n) for n in range(AHEAD_DAYS + 1)]
            await partitions.ensure(connection, ahead)

    async def _drop_days(self, connection: Connection, now: datetime, done: Done) -> None:
        """Drop the days that are older than any payload may be."""
        given = (self._settings.payload_retention_days, self._settings.retention_days)
        limits = [limit for days in given if (limit := self._limit(days, now)) is not None]
        if not limits:
            return
        with translated():
            found = await partitions.days(connection)
        for day in found:
            if day + timedelta(days=1) > max(limits).date():
                return
            try:
                with translated():
                    await partitions.drop(connection, day)
            except StoreUnavailable:  # somebody reads them: in the next round
                return
            done.days_dropped += 1

    async def _delete(self, connection: Connection, now: datetime, done: Done) -> None:
        before = self._limit(self._settings.retention_days, now)
        if before is None:
            return
        scope, purged = Scope(before), Purged()
        after: datetime | None = None

        async def batch() -> bool:
            nonlocal after
            rows = await delete_batch(connection, scope, after, purged)
            after = max((row["created_at"] for row in rows), default=None)
            return bool(rows)

        await _in_batches(connection, batch)
        done.rows_deleted = purged.rows
        await delete_alone(connection, scope, purged)

    async def _expire(self, connection: Connection, now: datetime, done: Done) -> None:
        before = self._limit(self._settings.payload_retention_days, now)
        if before is None:
            return

        async def batch() -> bool:
            place = await expire_batch(connection, before, self._expired_to)
            if place is None:
                return False
            self._expired_to = place
            done.rows_expired += place.rows
            return True

        await _in_batches(connection, batch)

    async def _look_again(self, connection: Connection, now: datetime, done: Done) -> None:
        """Once a day: rows that came late or were locked, and content that was left over."""
        if self._looked_again_at is None:
            self._looked_again_at = now - DAILY + FIRST
        if now - self._looked_again_at < DAILY:
            return
        self._looked_again_at = now
        self._expired_to = _BEGINNING
        if await connection.fetchval(_SHARES) and not await connection.fetchval(_IS_COPIED, COPY):
            done.messages_swept = await sweep(connection)


async def _in_batches(connection: Connection, batch: Callable[[], Awaitable[bool]]) -> None:
    """Do one after the other, as long as there is something to do and nobody else does it."""
    while True:
        began = time.monotonic()
        async with connection.transaction():
            if not await connection.fetchval(_TRY_LOCK, LOCK) or not await batch():
                return
        await asyncio.sleep(time.monotonic() - began)
