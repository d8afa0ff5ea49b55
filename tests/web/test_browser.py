"""The web page in a real browser, over ten thousand calls: right, calm, accessible, inert."""

import asyncio
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from proxy.store.postgres import Store
from tests.database import connected, fetched
from tests.store.rows import record
from tests.web import chromium
from tests.web.laboratory import day, fill, multiply
from tests.web.listener import listening
from tests.web.payloads import MARK, PAYLOADS, attack

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(chromium.PATH is None, reason=chromium.WHY_NOT),
    pytest.mark.filterwarnings("default"),  # the driver's own
]

MADE, TIMES = 1000, 10  # calls that go through the linker, and how often each is there
TOKEN = "a-token-of-the-tests-0123"
SHOTS = os.environ.get("PAGE_IMAGES")  # a directory: keep an image of each page


@pytest.fixture(scope="module")
def laboratory(module_dsn):
    """A database with 10,000 calls."""
    end = datetime.now(UTC)
    asyncio.run(fill(module_dsn, day(MADE, end, hours=20), now=end))
    asyncio.run(multiply(module_dsn, TIMES))
    return module_dsn


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser():
    async with chromium.chromium() as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(laboratory, tmp_path_factory):
    async with listening(tmp_path_factory.mktemp("admin"), laboratory) as found:
        yield found


async def one(dsn, query, *values):
    async with connected(dsn) as connection:
        return dict(await connection.fetchrow(query, *values))


async def pages(dsn):
    """Name → path of every view, with conversations of all kinds."""
    found = {
        "live": "/",
        "conversations": "/conversations",
        "overview": "/overview",
        "health": "/health",
        "nothing": "/conversations?project=none",
    }
    for name, condition in (
        ("delegated", "capture #>> '{link,kind}' = 'sub_agent'"),
        ("failed", "stop_reason = 'tool_failure'"),
    ):
        row = await one(
            dsn,
            "SELECT session_id, project_id FROM agent_telemetry "
            f"WHERE {condition} AND project_id IS NOT NULL ORDER BY id LIMIT 1",
        )
        found[name] = f"/conversation?session={row['session_id']}&project={row['project_id']}"
    row = await one(
        dsn,
        "SELECT id FROM agent_telemetry WHERE record_type = 'llm_call' AND tool_calls IS NOT NULL "
        "ORDER BY id LIMIT 1",
    )
    return found | {"call": f"/call/{row['id']}"}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1600, 380])
async def test_every_view_is_quiet_fits_and_is_accessible(
    browser, address, laboratory, width, theme
):
    async with chromium.watched(browser, address, width=width, theme=theme) as seen:
        for name, path in (await pages(laboratory)).items():
            await seen.open(path)
            if name == "live":
                await seen.page.locator(".state.on").wait_for()
            assert await seen.wide() == 0, name
            assert await seen.foreign() == [], name
            assert await seen.axe() == [], name
            assert await seen.violations() == [], name
            if SHOTS:
                await seen.page.screenshot(path=Path(SHOTS) / f"{name}-{width}-{theme}.png")
            await seen.page.keyboard.press("x")  # unfold everything that is folded
            assert await seen.wide() == 0, f"{name}, unfolded"


async def test_what_is_shown_is_what_the_rows_say(browser, address, laboratory):
    async with chromium.watched(browser, address) as seen:
        page = seen.page
        await seen.open("/overview?since=52w")
        total = await one(
            laboratory,
            "SELECT count(*) FILTER (WHERE record_type = 'llm_call') AS calls, "
            "count(*) FILTER (WHERE stop_reason = 'tool_failure') AS failures FROM agent_telemetry",
        )
        assert total["calls"] >= 10_000
        assert f"{total['calls']:,}".replace(",", "\u202f") in await page.inner_text(".stats")
        row = page.locator("tr", has_text="tool_failure").first
        assert f"{total['failures']}" in await row.inner_text()

        await row.locator("a").click()
        await page.wait_for_url("**/conversations?outcome=tool_failure*")
        chips = await page.locator("td.how .chip").all_inner_texts()
        assert len(chips) == 50
        await page.get_by_role("link", name="Earlier conversations").click()
        await page.wait_for_url("**after=*")
        await page.locator("tbody a.title").first.click()
        await page.wait_for_url("**/conversation?*")
        assert await page.locator(".turn > header .chip", has_text="tool_failure").count() == 1
        rounds = int(re.search(r"(\d+) rounds", await page.inner_text(".turn > header"))[1])
        assert await page.locator("article.round").count() == rounds
        assert await page.locator(".tool.failed").count() >= 2
        assert await page.locator("svg.bar .first").count() == rounds
        assert not await page.locator(".thoughts .said").first.is_visible()

        await page.get_by_role("link", name=re.compile("ended tool_failure")).click()
        target = await page.evaluate("location.hash.slice(1)")
        assert await page.locator(f"[id='{target}']").is_visible()


async def test_the_list_is_searched_and_filtered_by_its_form(browser, address):
    async with chromium.watched(browser, address) as seen:
        page = seen.page
        await seen.open("/conversations")
        await page.get_by_label("Search user messages").fill("currency")
        await page.get_by_label("Project").fill("checkout")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**q=currency&project=checkout*")
        titles = await page.locator("a.title").all_inner_texts()
        assert titles
        assert all("Iceland" in title for title in titles)
        assert set(await page.locator("td.main .meta a").all_inner_texts()) == {"checkout"}
        assert await page.get_by_label("Search user messages").input_value() == "currency"


async def test_every_view_is_reached_and_read_with_the_keyboard(browser, address, laboratory):
    async with chromium.watched(browser, address) as seen:
        page = seen.page
        await seen.open("/")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip"
        assert await page.locator(".skip").bounding_box() is not None
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"
        for key, path in (
            ("c", "/conversations"),
            ("o", "/overview"),
            ("h", "/health"),
            ("l", "/"),
        ):
            await page.keyboard.press("g")
            await page.keyboard.press(key)
            await page.wait_for_url(f"{address}{path}")
            heading = await page.locator("h1").inner_text()
            assert await page.locator("nav a[aria-current=page]").inner_text() == heading
        await seen.open((await pages(laboratory))["failed"])
        for number in (1, 2, 1):
            await page.keyboard.press("j" if number != 1 or not await focused(page) else "k")
            assert await focused(page) == f"Round {number}"
        await page.keyboard.press("e")
        assert await page.evaluate("document.activeElement.className.includes('round')")
        await page.keyboard.press("/")
        await seen.open("/conversations")
        await page.keyboard.press("/")
        assert await page.evaluate("document.activeElement.name") == "q"


async def focused(page):
    return await page.evaluate("document.activeElement.getAttribute('aria-label')")


async def test_live_rows_arrive_and_wait_while_paused(browser, address, laboratory):
    async with Store(laboratory) as store, chromium.watched(browser, address) as seen:
        page = seen.page
        await seen.open("/?project=live-test")
        await page.locator(".state.on").wait_for()
        assert await page.locator(".empty").is_visible()
        now = datetime.now(UTC)
        first = record(project_id="live-test", response_text="the first", created_at=now)
        other = record(project_id="elsewhere", response_text="of others", created_at=now)
        await store.write([first, other])
        await page.get_by_text("the first").wait_for()
        assert not await page.locator(".empty").is_visible()
        await page.keyboard.press("p")
        await store.write(
            [record(project_id="live-test", response_text="the second", created_at=now)]
        )
        await page.get_by_text("paused, 1 new").wait_for()
        assert await page.get_by_text("the second").count() == 0
        await page.get_by_role("button", name="Continue").click()
        await page.get_by_text("the second").wait_for()
        assert await page.locator("[data-rows] tr").count() == 2
        assert await page.get_by_text("of others").count() == 0


async def test_a_call_that_began_long_ago_stays_when_the_list_comes_anew(
    browser, address, laboratory
):
    now = datetime.now(UTC)
    async with Store(laboratory) as store, chromium.watched(browser, address) as seen:
        page = seen.page
        await seen.open("/")
        await page.locator(".state.on").wait_for()
        for ago in (6, 7):  # hours; more calls than a list holds began since
            text = f"began {ago} hours ago"
            await store.write([record(created_at=now - timedelta(hours=ago), response_text=text)])
            await page.get_by_text(text).wait_for()
        await store.execute(  # nobody announces it, so that only a new list shows it
            "INSERT INTO agent_telemetry (model_used, system_prompt, chat_history, duration_ms, "
            "response_text) VALUES ('m', '', '[]', 1, 'the latest')"
        )
        await page.get_by_text("the latest").wait_for()
        texts = await page.locator("[data-rows] .title").all_inner_texts()
        assert texts[0] == "the latest"
        assert texts[-2:] == ["began 6 hours ago", "began 7 hours ago"]


async def test_a_hundred_attacks_in_every_column_are_inert(browser, tmp_path, dsn):
    """Rows made of payloads on every page that shows them, and arriving live."""
    assert len(PAYLOADS) == 100
    at = datetime.now(UTC) - timedelta(hours=1)
    talks = [attack(number, payload, at) for number, payload in enumerate(PAYLOADS)]
    records = [call for talk in talks for call in talk.records]
    async with listening(tmp_path, dsn) as address, chromium.watched(browser, address) as seen:
        page = seen.page
        await seen.open("/")
        await page.locator(".state.on").wait_for()
        await fill(dsn, records[:40])  # these arrive live
        await page.locator("[data-rows] tr").nth(30).wait_for()
        assert await inert(seen), "live"
        await fill(dsn, records[40:])
        for path in ("/", "/conversations", "/conversations?since=4w&errors=1", "/overview"):
            await seen.open(path)
            assert await inert(seen), path
        query = "SELECT id, session_id, project_id, outcome FROM agent_telemetry ORDER BY id"
        rows = await fetched(dsn, query)
        sessions = sorted({(row["session_id"], row["project_id"]) for row in rows})
        assert len(sessions) == len(PAYLOADS)
        paths = [
            *(f"/conversation?{urlencode({'session': s, 'project': p})}" for s, p in sessions),
            *(f"/call/{row['id']}" for row in rows if row["outcome"] == "stream_error"),
        ]
        for path in paths[::25]:
            await seen.open(path)
            await page.keyboard.press("x")
            assert await inert(seen), path
        # All of them, as documents that the same browser has parsed.
        for start in range(0, len(paths), 20):
            assert await seen.foreign(*paths[start : start + 20]) == []


async def inert(seen):
    hit = await seen.page.evaluate(f"window.{MARK}")
    return hit is None and await seen.foreign() == [] and await seen.violations() == []


async def test_a_person_signs_in_with_the_token(browser, tmp_path, laboratory):
    async with (
        listening(tmp_path, laboratory, TOKEN=TOKEN) as address,
        chromium.watched(browser, address) as seen,
    ):
        page = seen.page
        await seen.open("/conversations?project=search", 401)
        assert await seen.axe() == []
        await page.get_by_label("Admin token").fill("wrong")
        await page.keyboard.press("Enter")
        await page.get_by_text("not the admin token").wait_for()
        await page.get_by_label("Admin token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"{address}/conversations?project=search")
        await page.get_by_role("heading", name="Conversations").wait_for()
        await seen.open("/")
        await page.locator(".state.on").wait_for()  # events come with the cookie too
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Admin token").wait_for()
        # Refused pages are errors to the browser's console, and nothing else is.
        refused = "console: Failed to load resource: the server responded with a status of 401"
        assert [fault for fault in seen.faults if not fault.startswith(refused)] == []
        seen.faults.clear()
