"""Live: rows as they are committed, handed to any number of open pages.

However many pages are open, the database is followed once, and only while one is. Rows that are
announced are handed on at once. What is not announced (behind a pooler, during an outage, a session
that is found later) shows when a page looks anew at what is latest, as it is told to do while
nothing is announced. A page that does not keep up loses the oldest rows that wait for it, and is
told how many.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from proxy.errors import StoreMisconfigured, StoreUnavailable
from proxy.store.postgres import Row
from proxy.store.viewer import Viewer

WAITING_MAX = 100  # rows of one page; more than anybody reads between two events
GATHER_S = 0.25  # what comes within is one event
POLL_S = 5.0
RETRY_S = 1.0
_ANY = (None, None, None, None, False, None, None)  # conditions of `queries/live.sql`


@dataclass(frozen=True, slots=True)
class News:
    """What came since a page asked last, the oldest row first."""

    rows: list[Row]
    skipped: int
    is_gap: bool  # there may be more: look anew


class Subscription:
    """What waits for one page."""

    def __init__(self, wants: Callable[[Mapping[str, Any]], bool]) -> None:
        self._wants = wants
        self._rows: deque[Row] = deque()
        self._skipped = 0
        self._is_gap = False
        self._has_news = asyncio.Event()

    def offer(self, row: Row) -> None:
        if not self._wants(row):
            return
        self._rows.append(row)
        if len(self._rows) > WAITING_MAX:
            self._rows.popleft()
            self._skipped += 1
        self._has_news.set()

    def note_gap(self) -> None:
        """Something may have been committed that is not offered."""
        self._is_gap = True
        self._has_news.set()

    async def news(self) -> News:
        """Wait until something came, and a moment longer for what comes with it."""
        await self._has_news.wait()
        await asyncio.sleep(GATHER_S)
        self._has_news.clear()
        news = News(list(self._rows), self._skipped, self._is_gap)
        self._rows.clear()
        self._skipped, self._is_gap = 0, False
        return news


class Live:
    """Follows one database for all pages."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._pages: set[Subscription] = set()
        self._following: asyncio.Task[None] | None = None
        self._has_begun = asyncio.Event()  # the database is heard, or does not answer
        self._owed: tuple[UUID, ...] = ()  # announced, and not read yet

    @contextlib.asynccontextmanager
    async def subscribed(
        self, wants: Callable[[Mapping[str, Any]], bool]
    ) -> AsyncIterator[Subscription]:
        """Whatever is committed once this has begun is offered, or else a gap is noted.

        The caller looks for what came before only then: a row that is committed between its look
        and LISTEN would be neither announced nor always among what is latest.
        """
        page = Subscription(wants)
        self._pages.add(page)
        if self._following is None:
            self._following = asyncio.create_task(self._follow(), name="live")
        try:
            await self._has_begun.wait()
            yield page
        finally:
            self._pages.discard(page)
            if not self._pages and self._following is not None:
                self._following.cancel()
                self._following = None
                self._has_begun.clear()
                self._owed = ()

    async def _follow(self) -> None:
        while True:
            # Pages learn of an outage by themselves, as soon as they look.
            with contextlib.suppress(StoreUnavailable, StoreMisconfigured):
                await self._hear()
            self._note_gap()
            await asyncio.sleep(RETRY_S)

    async def _hear(self) -> None:
        async with self._viewer.listen() as listener:
            self._note_gap()  # of what was committed before
            while True:
                ids = self._owed = self._owed or await listener.next(POLL_S)
                if not ids:
                    self._note_gap()
                    continue
                async with self._viewer.reading() as reading:
                    rows = await reading.rows("live", *_ANY, len(ids), list(ids))
                self._owed = ()
                for row in reversed(rows):
                    for page in self._pages:
                        page.offer(row)

    def _note_gap(self) -> None:
        self._has_begun.set()
        for page in self._pages:
            page.note_gap()
