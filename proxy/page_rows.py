"""Page rows: the lists of the web page, page by page, as the store gives them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from proxy.store import rollup
from proxy.store.postgres import Row
from proxy.store.viewer import Reading
from proxy.views.web.address import Cursor, Filters

LISTED = 50  # conversations, or live rows, on a page
CALLS_SHOWN = 50  # of a conversation on a page
# How many of the latest rows are looked at first; all of them where that gives no whole page.
LATEST_ROWS, LATEST_TURNS = (2000, 20_000), (2000,)
LIVE_SINCE = timedelta(days=7)  # what is shown of the past before anything comes
CHOICES_MAX, CHOICES_CALLS = 200, 2000
EARLY_SHOWN = 8
TOOL_TURNS_MAX = 2000  # results of tools are large: only those of the latest turns are counted


def after(filters: Filters) -> tuple[datetime | None, UUID | None]:
    return (filters.after.at, filters.after.id) if filters.after else (None, None)


def page_of(rows: list[Row], limit: int, filters: Filters) -> tuple[list[Row], str | None]:
    """The rows to show, and the address of the next page where there are more."""
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], filters.query(at=None, after=Cursor(last["created_at"], last["id"]))


async def listed(reading: Reading, filters: Filters, since: datetime) -> list[Row]:
    """One conversation more than a page shows, where there are so many."""
    which = (filters.project, filters.session, filters.model, filters.outcome, filters.errors)
    asked = (*which, filters.words, since, *after(filters), LISTED + 1)
    for latest in (*(LATEST_TURNS if filters.words else LATEST_ROWS), None):
        rows = await reading.rows("conversations", *asked, latest)
        if len(rows) > LISTED:
            break
    return rows


async def latest(reading: Reading, filters: Filters) -> list[Row]:
    types = {"calls": "llm_call", "turns": "turn_summary", None: None}
    return await reading.rows(
        "live",
        *(filters.project, filters.session, filters.model, filters.outcome, filters.errors),
        *(types[filters.kind], datetime.now(UTC) - LIVE_SINCE, LISTED, None),
    )


def added(rows: list[Row], news: list[Row]) -> list[Row]:
    """The list as a page shows it after these rows have come, the newest first."""
    ids = {row["id"] for row in news}
    return [*news[::-1], *(row for row in rows if row["id"] not in ids)][:LISTED]


async def placed(reading: Reading, filters: Filters) -> Filters:
    """The page of a conversation that holds the call which is asked for."""
    if filters.at is None or filters.after is not None:
        return filters
    found = await reading.rows(
        "place_of_call", filters.session, filters.project, filters.at, CALLS_SHOWN
    )
    return replace(filters, after=Cursor(found[0]["created_at"], found[0]["id"]) if found else None)


async def add_found(reading: Reading, rows: list[Row]) -> None:
    """The message that a search found, rather than the first one of the conversation."""
    found = await reading.rows("matched_messages", [row["id"] for row in rows])
    messages = {row["id"]: row["user_message"] for row in found}
    for row in rows:
        row["found"] = messages.get(row["id"])


async def summed(
    reading: Reading, filters: Filters, since: datetime, now: datetime, interval: timedelta
) -> dict[str, list[Row]]:
    """What the overview shows of a span, each list by its name there."""
    await reading.prepare_for_much()
    which, seconds = (filters.project, filters.model), round(interval.total_seconds())
    stale = [row["at"] for row in await reading.fetch(rollup.STALE)]
    whole = rollup.places(rollup.cover(since, now, stale))
    fitting = [width_s for width_s in rollup.WIDTHS_S if seconds % width_s == 0]
    columns = rollup.places(rollup.cover(since, now, stale, fitting))
    by = filters.by or "model"
    endings = await reading.rows("overview_endings", *which, *whole)
    has_early = any(row["early"] for row in endings)  # where there is none, all would be looked at
    return {
        "models": await reading.rows("overview_models", *which, *whole),
        "times": await reading.rows("overview_times", *which, *columns, seconds, by),
        "endings": endings,
        "early": await reading.rows("overview_early", *which, since, EARLY_SHOWN)
        if has_early
        else [],
        "tools": await reading.rows("overview_tools", *which, since, TOOL_TURNS_MAX),
    }


async def choices(reading: Reading) -> dict[str, list[str]]:
    rows = await reading.rows("choices", CHOICES_MAX, CHOICES_CALLS)
    return {
        f"{kind}s": [row["name"] for row in rows if row["kind"] == kind]
        for kind in ("project", "model")
    }
