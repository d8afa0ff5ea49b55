"""Pages: the web page, where what the store reads meets how views show it.

Each view is one snapshot of the database and one template. While the database is away every view
says so and comes back by itself; health shows what the spool knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from proxy import page_rows
from proxy.errors import RowRejected, StoreMisconfigured, StoreTooSlow, StoreUnavailable
from proxy.live import Live
from proxy.log import event
from proxy.since import instant_of
from proxy.store import examine, rollup
from proxy.store.beside import KEPT
from proxy.store.postgres import Row
from proxy.store.viewer import Reading, Viewer
from proxy.sums import Fleet, SpoolSums
from proxy.views.web.address import BadAddress, Filters, filters_of
from proxy.views.web.call import call_context
from proxy.views.web.health import checks, fleet_context, spool_context
from proxy.views.web.html import count_of, money, render
from proxy.views.web.overview import interval_of, overview_context
from proxy.views.web.text import CHARS_MAX
from proxy.views.web.trajectory import trajectory

MESSAGES_SHOWN = 40  # new ones of one call
SYSTEM_CHARS = 40_000
COUNTED_MAX = 100_000  # rows; of more the number is estimated
CHECKED = timedelta(hours=24)
LAG_MAX_MS = 120_000  # a call that waits longer has no recorder, or no database
RETRY_S = 5  # how soon a page without a database asks again

VIEWS = (
    ("live", "/", "Live"),
    ("conversations", "/conversations", "Conversations"),
    ("overview", "/overview", "Overview"),
    ("health", "/health", "Health"),
)
SPANS = (
    ("1h", "last hour"),
    ("6h", "last 6 hours"),
    ("24h", "last 24 hours"),
    ("7d", "last 7 days"),
    ("4w", "last 4 weeks"),
    ("52w", "last year"),
)
OUTCOMES = (
    *("complete", "client_disconnected", "upstream_error", "upstream_reset", "upstream_timeout"),
    *("upstream_unreachable", "stream_error", "proxy_crashed"),
)
ENDINGS = (
    *("completed", "user_aborted", "abandoned", "tool_failure", "upstream_error", "max_tokens"),
    *("round_cap", "silent_rounds", "empty_no_tools", "refused"),
)


@dataclass(frozen=True, slots=True)
class Page:
    """An answer to a browser."""

    html: str
    status: int = 200


class Pages:
    """All views of one machine."""

    def __init__(
        self,
        viewer: Viewer,
        live: Live,
        base_urls: Mapping[str, str],
        spool_sums: Callable[[], SpoolSums],
        gateway_answers: Callable[[], Awaitable[bool]],
        fleet: Callable[[], Awaitable[Fleet | None]] | None = None,
    ) -> None:
        self._fleet = fleet
        self._viewer = viewer
        self._live = live
        self._base_urls = base_urls
        self._spool_sums = spool_sums
        self._gateway_answers = gateway_answers
        self._makers = {
            "live": self._live_page,
            "conversations": self._conversations,
            "conversation": self._conversation,
            "call": self._call,
            "overview": self._overview,
            "health": self._health,
        }

    async def page(self, view: str, query: Mapping[str, str], common: Mapping[str, Any]) -> Page:
        """A view by its name. `common` is what every template needs of the listener."""
        shared = {**common, "views": VIEWS, "base_urls": self._base_urls}
        try:
            return await self._makers[view](query, shared | {"view": _nav(view)})
        except BadAddress as error:
            lines = (str(error),)
            return _notice(shared, 400, "This address cannot be read", lines, view=view)
        except StoreTooSlow:
            lines = ("Choose a shorter time, or narrower filters. Agents are not affected.",)
            return _notice(shared, 503, "The database took too long", lines, view=view)
        except StoreUnavailable as error:
            return self._away(shared, view, str(error))
        except StoreMisconfigured as error:
            return self._unfit(shared, view, str(error))
        except RowRejected as error:  # a value of the address that PostgreSQL cannot take
            lines = (f"PostgreSQL does not take a value of it (SQLSTATE {error}).",)
            return _notice(shared, 400, "This address cannot be read", lines, view=view)

    def missing(self, common: Mapping[str, Any]) -> Page:
        """The answer to a path that is none of ours."""
        shared = {**common, "views": VIEWS}
        return _notice(shared, 404, "There is no such page", (), view="", back=("/", "Live calls"))

    def login(self, common: Mapping[str, Any], **context: Any) -> str:
        """The form for the token."""
        return render("login", **common, **context)

    def events(self, query: Mapping[str, str]) -> AsyncIterator[tuple[str, str]]:
        """What a live page is told, as names of events and their data. Raises BadAddress.

        `reset` is the whole list, `rows` is what came, the newest first, `skipped` how many more
        there were; `away` while the database does not answer.
        """
        return self._events(filters_of(query))

    async def _events(self, filters: Filters) -> AsyncIterator[tuple[str, str]]:
        async with self._live.subscribed(filters.matches) as page:
            shown: list[Row] | None = None
            while True:
                try:
                    async with self._viewer.reading() as reading:
                        rows = await page_rows.latest(reading, filters)
                    if rows != shown:
                        yield "reset", render("rows", rows=rows)
                    shown, is_gap = rows, False
                    while not is_gap:
                        news = await page.news()
                        is_gap = news.is_gap
                        if news.rows:
                            shown = page_rows.added(shown, news.rows)
                            yield "rows", render("rows", rows=news.rows[::-1])
                        if news.skipped:
                            yield "skipped", str(news.skipped)
                except (StoreUnavailable, StoreMisconfigured):
                    yield "away", ""
                    shown = None
                    await asyncio.sleep(RETRY_S)

    async def _live_page(self, query: Mapping[str, str], shared: dict[str, Any]) -> Page:
        filters = filters_of(query)
        async with self._viewer.reading() as reading:
            rows = await page_rows.latest(reading, filters)
            choices = await page_rows.choices(reading)
            has_rows = bool(rows) or bool(await reading.rows("any"))
        context = {
            "rows": rows,
            "filters": filters,
            "endings": (*OUTCOMES, *ENDINGS),
            "choices": choices,
            "has_rows": has_rows,
        }
        return Page(render("live", **shared, **context))

    async def _conversations(self, query: Mapping[str, str], shared: dict[str, Any]) -> Page:
        filters = filters_of(query)
        since = _since(filters, "7d")
        async with self._viewer.reading() as reading:
            rows = await page_rows.listed(reading, filters, since)
            rows, following = page_rows.page_of(rows, page_rows.LISTED, filters)
            if filters.words:
                await page_rows.add_found(reading, rows)
            choices = await page_rows.choices(reading)
            has_rows = bool(rows) or bool(await reading.rows("any"))
        for row in rows:
            row["endings"] = row["endings"] or []
        context = {
            "rows": rows,
            "next": following,
            "filters": filters,
            "since": filters.since or "7d",
            "spans": _spans(filters),
            "endings": ENDINGS,
            "choices": choices,
            "has_rows": has_rows,
        }
        return Page(render("conversations", **shared, **context))

    async def _conversation(self, query: Mapping[str, str], shared: dict[str, Any]) -> Page:
        filters = filters_of(query)
        session, project = filters.session, filters.project
        if session is None:
            raise BadAddress("session: is missing; choose a conversation from the list")
        async with self._viewer.reading() as reading:
            filters = await page_rows.placed(reading, filters)
            calls = await reading.rows(
                "trajectory",
                session,
                project,
                *page_rows.after(filters),
                page_rows.CALLS_SHOWN + 1,
                CHARS_MAX,
            )
            if not calls:
                return await self._other_project(reading, session, shared)
            calls, following = page_rows.page_of(calls, page_rows.CALLS_SHOWN, filters)
            turns = list({row["turn_id"] for row in calls if row["turn_id"]})
            ids = [row["id"] for row in calls]
            summaries = await reading.rows("trajectory_turns", session, project, turns)
            prompts = await reading.rows("prompts", ids, MESSAGES_SHOWN, SYSTEM_CHARS)
            whole = (await reading.rows("trajectory_whole", session, project))[0]
        order = {id: place for place, id in enumerate(ids)}
        prompts.sort(key=lambda row: order[row["id"]])
        story = trajectory(calls, summaries, prompts, is_begin=filters.after is None)
        context = {
            "story": story,
            "whole": whole,
            "session": session,
            "project": project,
            "said": next((row["user_message"] for row in calls if row["user_message"]), ""),
            "filters": filters,
            "next": following,
        }
        return Page(render("conversation", **shared, **context))

    async def _other_project(self, reading: Reading, session: str, shared: dict[str, Any]) -> Page:
        """A session that is not known in this project: where it is known, if anywhere."""
        found = await reading.rows("projects_of_session", session)
        lines = [
            "No call of this session has been recorded, or its rows were deleted.",
            *(f"It is known in project {row['project_id'] or '(none)'}." for row in found),
        ]
        back = ("/conversations?since=52w", "All conversations")
        return _notice(shared, 404, "No such conversation here", lines, view="", back=back)

    async def _call(self, query: Mapping[str, str], shared: dict[str, Any]) -> Page:
        try:
            id = UUID(query["id"])
        except ValueError:
            raise BadAddress("call: write the id of a row, a UUID") from None
        async with self._viewer.reading() as reading:
            rows = await reading.rows("call", id)
        if not rows:
            lines = ("No row has this id; it may not be stored yet, or was deleted.",)
            return _notice(shared, 404, "No such call", lines, view="", back=("/", "Live calls"))
        return Page(render("call", **shared, **call_context(rows[0])))

    async def _overview(self, query: Mapping[str, str], shared: dict[str, Any]) -> Page:
        filters = filters_of(query)
        since, now = _since(filters, "24h"), datetime.now(UTC)
        interval = interval_of(now - since)
        async with self._viewer.reading() as reading:
            numbers = overview_context(
                **await page_rows.summed(reading, filters, since, now, interval),
                milliseconds=rollup.milliseconds,
                since=since,
                until=now,
                interval=interval,
            )
            choices = await page_rows.choices(reading)
            has_rows = bool(await reading.rows("any"))
        context = {
            "filters": filters,
            "span": filters.since or "24h",
            "spans": _spans(filters),
            "choices": choices,
            "has_rows": has_rows,
            "since": since,
            "until": now,
            "tool_turns": page_rows.TOOL_TURNS_MAX,
            "count_of": count_of,
            "money_of": money,
        }
        return Page(render("overview", **shared, **numbers, **context))

    async def _health(self, query: Mapping[str, str], shared: dict[str, Any]) -> Page:
        """Shown without a database too: then most of all."""
        now = datetime.now(UTC)
        spool = spool_context(self._spool_sums())
        gateway = await self._gateway_answers()
        context: dict[str, Any] = {"database": None, "set_aside": [], "checks": [], "calls": 0}
        reason = ""
        try:
            async with self._viewer.reading() as reading:
                context["database"] = (await reading.rows("health", COUNTED_MAX))[0]
                context["set_aside"] = await reading.rows("set_aside", KEPT)
                counts = (await reading.fetch(examine.COUNTS, now - CHECKED))[0]
            context |= {"checks": checks(examine.OF_CALLS, counts), "calls": counts["calls"]}
        except (StoreUnavailable, StoreMisconfigured) as error:
            reason = str(error)
            shared = shared | {"refresh_s": RETRY_S}
        lag_ms = spool["lag_ms"] or 0
        context |= fleet_context(await self._fleet() if self._fleet else None)
        context["has_fleet"] = self._fleet is not None
        is_well_here = gateway and not reason and spool["is_whole"] and lag_ms < LAG_MAX_MS
        context["is_well"] = is_well_here and (context["is_fleet_well"] or not self._fleet)
        return Page(render("health", **shared, **spool, **context, gateway=gateway, reason=reason))

    def _away(self, shared: dict[str, Any], view: str, reason: str) -> Page:
        waiting = self._spool_sums().waiting
        lines = (
            "Agents are served as always. What they do is kept on disk and stored once the "
            f"database is back: {waiting:,} calls wait now.",
            f"This page asks again every {RETRY_S} seconds.",
            f"Reason: {reason}",
        )
        heading = "The database does not answer"
        return _notice(shared | {"refresh_s": RETRY_S}, 503, heading, lines, view=view)

    def _unfit(self, shared: dict[str, Any], view: str, reason: str) -> Page:
        event("a page cannot be read", logging.WARNING, view=view, reason=reason)
        heading = "The database cannot be read as it is"
        lines = (reason, f"This page asks again every {RETRY_S} seconds.")
        return _notice(shared | {"refresh_s": RETRY_S}, 503, heading, lines, view=view)


def _notice(
    shared: Mapping[str, Any],
    status: int,
    heading: str,
    lines: Any,
    *,
    view: str,
    back: tuple[str, str] = ("", ""),
) -> Page:
    address, title = back
    context = {"heading": heading, "lines": lines, "back": address, "back_title": title}
    return Page(render("notice", **{**shared, "view": _nav(view)}, **context), status)


def _nav(view: str) -> str:
    return {"conversation": "conversations", "call": "conversations"}.get(view, view)


def _since(filters: Filters, usual: str) -> datetime:
    try:
        return instant_of(filters.since or usual, datetime.now(UTC))
    except ValueError as error:
        raise BadAddress(f"since: {error}") from None


def _spans(filters: Filters) -> tuple[tuple[str, str], ...]:
    """The spans to choose from, the one that is asked for among them."""
    given = filters.since
    is_other = given is not None and given not in dict(SPANS)
    return (*SPANS, (given, f"since {given}")) if given and is_other else SPANS
