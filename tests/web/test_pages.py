"""The pages as HTML over a real database: what they show, and that no row can break them."""

import html
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import pytest

from proxy.rollup import Rollup
from tests.database import connected
from tests.store.rows import POISON, record
from tests.turns.scripts import Talk
from tests.web.laboratory import fill
from tests.web.listener import listening

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30)
VIEWS = ("/", "/conversations", "/overview")


async def get(address, path, status=200):
    async with aiohttp.ClientSession() as session, session.get(address + path) as answer:
        text = await answer.text()
        assert answer.status == status, text
        return text


def links(text, prefix):
    return [
        html.unescape(found) for found in re.findall(rf'href="({re.escape(prefix)}[^"]*)"', text)
    ]


@pytest.mark.parametrize("view", VIEWS)
async def test_an_empty_database_tells_how_to_begin(tmp_path, dsn, view):
    async with listening(tmp_path, dsn) as address:
        text = await get(address, view)
    assert "http://127.0.0.1:8080/openai/v1" in text
    assert "http://127.0.0.1:8080/anthropic" in text
    assert "agent-telemetry demo" in text


@pytest.mark.parametrize("view", VIEWS)
async def test_without_a_database_every_view_says_so_and_asks_again(tmp_path, view):
    async with listening(tmp_path, "postgresql://nobody@127.0.0.1:1/none") as address:
        text = await get(address, view, 503)
    assert "The database does not answer" in text
    assert "7 calls wait now" in text
    assert '<meta http-equiv="refresh" content="5">' in text


async def test_a_database_without_the_table_is_told_apart(tmp_path, empty_dsn):
    async with listening(tmp_path, empty_dsn) as address:
        text = await get(address, "/conversations", 503)
    assert "run `agent-telemetry migrate`" in html.unescape(text)


async def test_a_page_that_takes_too_long_asks_for_less_and_not_again(tmp_path, dsn, monkeypatch):
    monkeypatch.setattr("proxy.store.viewer.query", lambda name: "SELECT pg_sleep(30), $1::uuid")
    monkeypatch.setattr("proxy.store.viewer.STATEMENT_TIMEOUT_S", 1)
    async with listening(tmp_path, dsn) as address:
        text = await get(address, "/call/00000000-0000-0000-0000-000000000000", 503)
    assert "took too long" in text
    assert "refresh" not in text


async def test_a_page_comes_back_with_the_database(tmp_path, dsn):
    async with listening(tmp_path, dsn) as address:
        await get(address, "/conversations")
        async with connected(dsn) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        async with aiohttp.ClientSession() as session:
            # The first may still be given the connection that was lost.
            seen = [(await session.get(f"{address}/conversations")).status for _ in range(3)]
    assert seen[-1] == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("since=yesterday", "since"),
        ("since=999999w", "since"),
        ("kind=x", "kind"),
        ("by=x", "by"),
        ("after=1", "after"),
        ("after=2026-01-01T00:00:00~1", "after"),
        ("after=0001-01-01T00:00:00%2B14:00~00000000-0000-0000-0000-000000000000", "after"),
        ("project=%00", "project"),
        ("q=" + "x" * 1001, "q"),
        ("session=%ED%A0%80", None),
    ],
)
async def test_an_address_that_cannot_be_read_says_which_field(tmp_path, dsn, query, field):
    async with listening(tmp_path, dsn) as address:
        text = await get(address, f"/conversations?{query}", 400 if field else 200)
    assert field is None or f"{field}: " in text


async def test_a_conversation_that_is_not_there_is_missed_politely(tmp_path, dsn):
    talk = Talk("here", at=NOW).user("hello").call("hi", project_id="shop")
    await fill(dsn, talk.records)
    async with listening(tmp_path, dsn) as address:
        assert "No call of this session" in await get(address, "/conversation?session=x", 404)
        assert "in project shop" in await get(address, "/conversation?session=here", 404)
        assert "hello" in await get(address, "/conversation?session=here&project=shop")
        assert "session: is missing" in await get(address, "/conversation", 400)
        assert "No such call" in await get(address, f"/call/{uuid4()}", 404)
        assert "write the id" in await get(address, "/call/x", 400)
        assert "no such page" in await get_html(address, "/nothing")


async def get_html(address, path):
    headers = {"Accept": "text/html"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(address + path) as got,
    ):
        return await got.text()


async def test_a_trajectory_shows_each_part_once(tmp_path, dsn):
    talk = (
        Talk("s", at=NOW)
        .user("count the words")
        .call(
            "I look.",
            [("read", {"path": "a.txt"})],
            response_thoughts="where are they?",
            ttft_ms=300,
        )
    )
    talk.results("Error: no such file").call("sorry", [("read", {"path": "b.txt"})])
    talk.results("three words").call("Three words.")
    talk.user("and the letters").call(None, outcome="upstream_error", status=500, error="it broke")
    await fill(dsn, talk.records)
    async with listening(tmp_path, dsn) as address:
        text = html.unescape(await get(address, "/conversation?session=s"))
        call = html.unescape(await get(address, f"/call/{talk.records[1].id}"))
    assert text.count("Round 1</a>") == 2  # one in each turn
    for once in ("where are they?", "I look.", "Three words.", "it broke"):
        assert text.count(once) == 1, once
    assert "round 1: read failed" in text
    assert "turn 2 ended upstream_error" in text
    assert "3 as before, 2 new messages" in text  # of the third call
    assert "In its conversation" in call
    assert "no such file" in call


async def test_a_conversation_of_many_rounds_comes_in_pages(tmp_path, dsn):
    talk = Talk("long", at=NOW - timedelta(hours=3)).user("go on for long")
    for number in range(70):
        talk.call(f"step {number}", [("read", {"n": number})]).results(f"result {number}")
    await fill(dsn, talk.records)
    async with listening(tmp_path, dsn) as address:
        first = await get(address, "/conversation?session=long")
        (following,) = links(first, "/conversation?session=long&after=".replace("&", "&amp;"))
        second = await get(address, following)
    assert "step 49" in first
    assert "Round 51</a>" not in first
    assert "Round 51</a>" in second
    assert "Round 70</a>" in second
    assert "Later rounds" not in second


@pytest.mark.parametrize("steps", [(1, 60), (10_000,)])
async def test_the_list_comes_in_pages_without_gap_or_double(tmp_path, dsn, monkeypatch, steps):
    """Also where conversations lie within each other, and few rows are looked at first."""
    monkeypatch.setattr("proxy.page_rows.LATEST_ROWS", steps)
    rows = [
        record(session_id=f"s-{n}", created_at=NOW - timedelta(seconds=n // 3 + 40 * again))
        for n in range(130)
        for again in range(3)
    ]
    await fill(dsn, rows)
    seen, path = [], "/conversations"
    async with listening(tmp_path, dsn) as address:
        while path:
            text = await get(address, path)
            seen += links(text, "/conversation?")
            path = next(
                (found for found in links(text, "/conversations?") if "after=" in found), None
            )
    assert len(seen) == len(set(seen)) == 130
    order = [int(re.search(r"session=s-(\d+)", link)[1]) // 3 for link in seen]
    assert order == sorted(order)


async def test_a_search_finds_words_and_beginnings_in_messages(tmp_path, dsn):
    one = Talk("one", at=NOW).user("please mend the Invoice of Zürich").call("ok")
    two = Talk("two", at=NOW).user("an invitation").call("ok").user("the invoice").call("ok")
    await fill(dsn, one.records + two.records)
    async with listening(tmp_path, dsn) as address:

        async def found(words):
            text = await get(address, f"/conversations?q={quote(words)}")
            return sorted(re.findall(r"session=(\w+)", " ".join(links(text, "/conversation?"))))

        assert await found("invoice") == ["one", "two"]
        assert await found("INVO*") == ["one", "two"]
        assert await found("invo") == []
        assert await found("invoice zürich") == ["one"]
        assert await found("voice") == []
        assert await found("' | & ! :* ( %") == ["one", "two"]  # no word at all
        assert "the invoice" in await get(address, "/conversations?q=invoice&session=two")


async def test_the_overview_says_the_same_once_it_is_added_up(tmp_path, dsn):
    talks = [
        Talk(f"s-{n}", at=NOW - timedelta(days=n, hours=n))
        .user("go")
        .call("look", [("read", {})])
        .results("Error: no")
        .call("done")
        for n in range(25)
    ]
    await fill(dsn, [call for talk in talks for call in talk.records])

    def numbers(text):
        shown = text[text.index('<dl class="stats">') : text.index('id="tools-title"')]
        return re.findall(r"<(?:dd|td)[^>]*>(?:<[^>]*>)*([^<]+)", shown)

    async with listening(tmp_path, dsn) as address:
        before, unwell = await get(address, "/overview?since=4w"), await get(address, "/health")
        await Rollup(dsn).round(datetime.now(UTC))
        after, well = await get(address, "/overview?since=4w"), await get(address, "/health")
    assert "50" in numbers(before)  # calls
    assert numbers(after) == numbers(before)
    assert "to be added up" in unwell
    assert "to be added up" not in well


async def test_whatever_a_row_holds_has_its_page(tmp_path, dsn, store, connection):
    """Invariant: every row that the store takes can be shown."""
    rows = [
        record(**{"session_id": f"poison-{number}", **values, "created_at": NOW})
        for number, values in enumerate(POISON[::4])
    ]
    await store.write(rows)
    stored = await connection.fetch("SELECT id, session_id, project_id FROM agent_telemetry")
    async with listening(tmp_path, dsn) as address, aiohttp.ClientSession() as session:
        path = "/conversations"
        while path:
            text = await get(address, path)
            path = next(
                (found for found in links(text, "/conversations?") if "after=" in found), None
            )
        for row in stored:
            names = {"session": row["session_id"], "project": row["project_id"]}
            query = {name: value for name, value in names.items() if value is not None}
            if query.get("session"):
                async with session.get(f"{address}/conversation", params=query) as answer:
                    assert answer.status == 200, (query, await answer.text())
            async with session.get(f"{address}/call/{row['id']}") as answer:
                assert answer.status == 200, row
