"""Follow: rows as they are committed, for `tail --follow` and live pages.

Rows are not committed in order of `created_at`: a long call is stored minutes after it began. So
each batch announces its ids (see `postgres`), and those are read. Where nothing is announced (a
pooler in between, a lost connection) the calls of the last WINDOW_S are looked through instead,
and what was shown before is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from proxy.errors import StoreUnavailable
from proxy.store.postgres import Listener, Row, Store
from proxy.store.selection import Selection

WINDOW_S = 900.0
POLL_S = 5.0
RETRY_S = 1.0


async def follow(
    store: Store, selection: Selection, *, last: int = 20, poll_s: float = POLL_S
) -> AsyncIterator[Row]:
    """The last rows, then each row once it is committed, for ever.

    A row that is replaced by its true outcome comes again. While the database is away nothing
    comes; the first connection, however, raises StoreUnavailable or StoreMisconfigured.
    """
    await store.ping()
    shown = await store.recent_ids(WINDOW_S)
    for row in await store.latest(selection, last):
        shown.add(row["id"])
        yield row
    while True:
        try:
            async with store.listen() as listener:
                # What came between the last look and LISTEN.
                async for row in _unseen(store, selection, shown):
                    yield row
                async for row in _announced(store, selection, listener, shown, poll_s):
                    yield row
        except StoreUnavailable:
            await asyncio.sleep(RETRY_S)


async def _announced(
    store: Store, selection: Selection, listener: Listener, shown: set[UUID], poll_s: float
) -> AsyncIterator[Row]:
    while True:
        ids = await listener.next(poll_s)
        if not ids:
            async for row in _unseen(store, selection, shown):
                yield row
            continue
        shown.update(ids)
        for row in await store.rows(ids, selection):
            yield row


async def _unseen(store: Store, selection: Selection, shown: set[UUID]) -> AsyncIterator[Row]:
    """Look through the window; forget what has left it."""
    recent = await store.recent_ids(WINDOW_S)
    new = recent - shown
    shown &= recent
    shown |= new
    if new:
        for row in await store.rows(list(new), selection):
            yield row
