"""Live: rows as they are committed, handed to any number of open pages.

However many pages are open, the database is followed once, and only while one is. A page that does
not keep up loses the oldest rows that wait for it, and is told how many.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from proxy.errors import StoreMisconfigured, StoreUnavailable
from proxy.store.follow import follow
from proxy.store.postgres import Row
from proxy.store.viewer import Arrivals

WAITING_MAX = 100  # rows of one page; more than anybody reads between two events
GATHER_S = 0.25  # what comes within is one event
RETRY_S = 1.0


class Subscription:
    """What waits for one page."""

    def __init__(self, wants: Callable[[Mapping[str, Any]], bool]) -> None:
        self._wants = wants
        self._rows: deque[Row] = deque()
        self._skipped = 0
        self._news = asyncio.Event()

    def offer(self, row: Row) -> None:
        if not self._wants(row):
            return
        self._rows.append(row)
        if len(self._rows) > WAITING_MAX:
            self._rows.popleft()
            self._skipped += 1
        self._news.set()

    async def batch(self, timeout_s: float) -> tuple[list[Row], int]:
        """The rows that came, the oldest first, and how many were skipped; none after a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
            await asyncio.sleep(GATHER_S)
        self._news.clear()
        rows, skipped = list(self._rows), self._skipped
        self._rows.clear()
        self._skipped = 0
        return rows, skipped


class Live:
    """Follows one database for all pages."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._pages: set[Subscription] = set()
        self._following: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def subscribed(self, wants: Callable[[Mapping[str, Any]], bool]) -> Iterator[Subscription]:
        """From now on. The caller looks for what came before after this has begun."""
        page = Subscription(wants)
        self._pages.add(page)
        if self._following is None:
            self._following = asyncio.create_task(self._follow(), name="live")
        try:
            yield page
        finally:
            self._pages.discard(page)
            if not self._pages and self._following is not None:
                self._following.cancel()
                self._following = None

    async def _follow(self) -> None:
        arrivals = Arrivals(self._dsn)
        try:
            while True:
                with contextlib.suppress(StoreUnavailable, StoreMisconfigured):
                    async for row in follow(arrivals, last=0):
                        for page in self._pages:
                            page.offer(row)
                await asyncio.sleep(RETRY_S)  # the database is not there yet, or has no table
        finally:
            await arrivals.close()
