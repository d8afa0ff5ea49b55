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
from proxy.store.postgres import Row, Store
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
    following = _Following(store, selection)
    is_begun = False
    while True:
        try:
            # LISTEN comes before each look, so that nothing is committed between the two unseen.
            async with store.listen() as listener:
                rows = await (following.unseen() if is_begun else following.begin(last))
                is_begun = True
                while True:
                    for row in rows:
                        yield row
                    ids = await listener.next(poll_s)
                    rows = await (following.announced(ids) if ids else following.unseen())
        except StoreUnavailable:
            if not is_begun:
                raise
            await asyncio.sleep(RETRY_S)


class _Following:
    """What one reader has been shown."""

    def __init__(self, store: Store, selection: Selection) -> None:
        self._store = store
        self._selection = selection
        self._shown: set[UUID] = set()
        self._owed: set[UUID] = set()  # known of, and not read yet
        self._found: dict[UUID, Row] = {}  # by the last look; the announcement may still come

    async def begin(self, last: int) -> list[Row]:
        self._shown = await self._store.recent_ids(WINDOW_S)
        rows = await self._store.latest(self._selection, last)
        self._found = {row["id"]: row for row in rows}
        self._shown |= self._found.keys()
        return rows

    async def announced(self, ids: tuple[UUID, ...]) -> list[Row]:
        """The rows of a batch; not those that the last look has found as they are."""
        self._owed.update(ids)
        rows = await self._read()
        return [row for row in rows if self._found.pop(row["id"], None) != row]

    async def unseen(self) -> list[Row]:
        """Look through the window, and forget what has left it."""
        recent = await self._store.recent_ids(WINDOW_S)
        self._owed |= recent - self._shown
        rows = await self._read()
        self._shown = recent
        self._found = {row["id"]: row for row in rows}
        return rows

    async def _read(self) -> list[Row]:
        """All that is owed, which it stays if it cannot be read now."""
        if not self._owed:
            return []
        rows = await self._store.rows(list(self._owed), self._selection)
        self._shown |= self._owed
        self._owed.clear()
        return rows
