"""Raw: the exchanges that lie in `agent_raw`, by reason and one by one.

Those of rows that were stored have the reason `kept`; every other reason says why a row was
refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from proxy.store.beside import KEPT
from proxy.store.postgres import Store

PAGE_ROWS = 20  # an exchange may be large

_REASONS = """
SELECT reason, count(*) AS calls, min(created_at) AS oldest, max(created_at) AS newest,
    sum(octet_length(exchange))::bigint AS bytes
FROM agent_raw WHERE reason <> $1 GROUP BY reason ORDER BY calls DESC, reason
"""
_COUNT = "SELECT count(*) AS calls FROM agent_raw WHERE (reason = $1) = $2 AND created_at >= $3"
_PAGE = """
SELECT id, created_at, reason, exchange FROM agent_raw
WHERE (reason = $1) = $2 AND (created_at, id) > ($3, $4)
ORDER BY created_at, id LIMIT $5
"""
_FORGET = "DELETE FROM agent_raw WHERE id = $1 AND reason <> $2"
_KEEP = "UPDATE agent_raw SET reason = $2 WHERE id = $1"
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Exchanges that are set aside for one reason."""

    reason: str
    calls: int
    oldest: datetime
    newest: datetime
    bytes: int


@dataclass(frozen=True, slots=True)
class RawCopy:
    """One exchange as it was; `captured.unpacked` reads it."""

    id: UUID
    created_at: datetime
    reason: str
    exchange: bytes


async def quarantined(store: Store) -> list[Quarantined]:
    """What is set aside, by reason, the most frequent first."""
    return [Quarantined(**row) for row in await store.fetch(_REASONS, KEPT)]


async def count(store: Store, *, kept: bool, since: datetime = _BEGINNING) -> int:
    """How many copies `copies` gives."""
    (row,) = await store.fetch(_COUNT, KEPT, kept, since)
    return int(row["calls"])


async def copies(
    store: Store, *, kept: bool, since: datetime = _BEGINNING
) -> AsyncIterator[RawCopy]:
    """Copies of calls since then in order of time: of stored rows, or of refused ones."""
    after = since, UUID(int=0)
    while page := await store.fetch(_PAGE, KEPT, kept, *after, PAGE_ROWS):
        for row in page:
            yield RawCopy(**row)
        after = page[-1]["created_at"], page[-1]["id"]


async def forget(store: Store, id: UUID) -> None:
    """Remove the copy of a call that is set aside no longer."""
    await store.fetch(_FORGET, id, KEPT)


async def keep(store: Store, id: UUID) -> None:
    """Have the copy of a call that is set aside no longer be one of a stored row."""
    await store.fetch(_KEEP, id, KEPT)
