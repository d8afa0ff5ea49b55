"""Relink: take the facts of calls from their rows again, judge turns again, say what changed.

For use after the canonical form or the rules of turns improved. Rows that hold metadata only keep
their facts, which are all that is left of them; they are judged again with the others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

from proxy.config import Config
from proxy.enrich.digests import Digests
from proxy.enrich.facts import link_of
from proxy.linker import Linker
from proxy.record import TelemetryRecord
from proxy.store.links import LinkStore
from proxy.store.postgres import Row, Store

PAGE_ROWS = 200
BUSY_S = 0.1  # while the recorder's linker works

_COLUMNS = (
    *("id", "created_at", "model_used", "duration_ms", "system_prompt", "chat_history"),
    *("project_id", "session_id", "response_text", "tool_calls", "outcome", "finish_reason"),
    *("request_params", "client", "labels", "capture"),
)
_PAGE = f"""
SELECT {", ".join(_COLUMNS)} FROM agent_telemetry_full
WHERE record_type = 'llm_call' AND outcome IS NOT NULL AND (created_at, id) > ($1, $2)
    AND NOT COALESCE(capture ? 'rejected' OR capture ->> 'content' = 'metadata', FALSE)
ORDER BY created_at, id LIMIT {PAGE_ROWS}
"""  # noqa: S608 - column names are this program's own
_COUNT = """
SELECT count(*) AS rows FROM agent_telemetry
WHERE record_type = 'llm_call' AND outcome IS NOT NULL AND created_at >= $1
"""
_TURNS = """
SELECT turn_id, stop_reason, rounds, tool_call_count FROM agent_telemetry
WHERE record_type = 'turn_summary' AND created_at >= $1
"""


@dataclass(slots=True)
class TurnChanges:
    """What judging turns again has changed."""

    calls: int = 0  # whose facts were taken again
    turns: int = 0  # known now
    changed: int = 0  # with another reason or other counts than before
    appeared: int = 0
    gone: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)  # (before, now)


async def count_calls(store: Store, since: datetime) -> int:
    """How many calls there are to look at."""
    return int((await store.fetch(_COUNT, since))[0]["rows"])


async def recompute_turns(
    config: Config, store: Store, links: LinkStore, since: datetime, advance: Callable[[], None]
) -> TurnChanges:
    """Judge the turns since then again. Raises StoreUnavailable or StoreMisconfigured."""
    digests = Digests(await links.secret())
    before = await _turns(store, since)
    changes = TurnChanges()
    async for rows in _pages(store, since):
        await links.rewrite([link_of(_record(row), digests) for row in rows])
        for _ in rows:
            advance()
        changes.calls += len(rows)
    await links.judge_again(since)
    linker = Linker(config, links, None)
    while await links.is_behind():
        if (await linker.step(datetime.now(UTC))).is_idle:
            await asyncio.sleep(BUSY_S)
    await linker.settle(datetime.now(UTC))
    _compare(before, await _turns(store, since), changes)
    return changes


async def _pages(store: Store, since: datetime) -> AsyncIterator[list[Row]]:
    after, id = since, UUID(int=0)
    while rows := await store.fetch(_PAGE, after, id):
        yield rows
        after, id = rows[-1]["created_at"], rows[-1]["id"]


def _record(row: Row) -> TelemetryRecord:
    """The record as it was before linking."""
    record = TelemetryRecord(**row | {"id": UUID(int=row["id"].int)})  # the driver has its own type
    is_inferred = (record.capture or {}).get("session_source") == "inferred"
    return replace(record, session_id=None) if is_inferred else record


async def _turns(store: Store, since: datetime) -> dict[UUID, Row]:
    return {row["turn_id"]: row for row in await store.fetch(_TURNS, since)}


def _compare(before: Mapping[UUID, Row], now: Mapping[UUID, Row], changes: TurnChanges) -> None:
    changes.turns = len(now)
    changes.appeared = len(now.keys() - before.keys())
    changes.gone = len(before.keys() - now.keys())
    for turn in now.keys() & before.keys():
        if now[turn] != before[turn]:
            changes.changed += 1
            was, is_now = before[turn]["stop_reason"], now[turn]["stop_reason"]
            if was != is_now:
                changes.reasons[str(was), str(is_now)] += 1
