"""Live pages: what is committed arrives, filtered, over one following of the database."""

import asyncio
import contextlib
import html
import re

import aiohttp
import pytest

from proxy.errors import StoreUnavailable
from proxy.live import WAITING_MAX, Subscription
from proxy.page_rows import LIVE_SINCE
from proxy.store.channel import CHANNEL
from proxy.store.viewer import Viewer
from tests.database import connected
from tests.store.rows import record
from tests.web.listener import listening
from tests.web.test_pages import NOW, get

PATIENCE_S = 20


@contextlib.asynccontextmanager
async def events(address, query=""):
    """A function that gives the next event as (name, data)."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=PATIENCE_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, read_bufsize=2**22) as session,
        session.get(f"{address}/live/events{query}") as answer,
    ):
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]

        async def following():
            name, data = "", []
            async for line in answer.content:
                field, _, value = line.decode().rstrip("\r\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    data.append(value)
                elif not field and name:
                    return name, html.unescape("\n".join(data))
            raise AssertionError("the stream has ended")

        async def next_event():
            async with asyncio.timeout(PATIENCE_S):
                return await following()

        yield next_event


async def until(following, wanted):
    """The next event of that name."""
    while True:
        name, data = await following()
        if name == wanted:
            return data


def shown(data):
    return re.findall(r'id="row-([0-9a-f-]+)"', data)


async def test_a_row_arrives_once_it_is_committed(tmp_path, dsn, store):
    before, after = record(response_text="before"), record(response_text="after")
    await store.write([before])
    async with listening(tmp_path, dsn) as address, events(address) as following:
        assert (await following())[0] == "reset"
        await store.write([after])
        data = await until(following, "rows")
        assert shown(data) == [str(after.id)]
        assert "after" in data


async def test_a_page_hears_only_of_what_it_asked_for(tmp_path, dsn, store):
    wanted = record(project_id="shop", outcome="upstream_error", error="it broke")
    others = [
        record(project_id="shop"),
        record(project_id="other", outcome="upstream_error"),
        record(record_type="turn_summary", project_id="shop", stop_reason="completed"),
    ]
    async with (
        listening(tmp_path, dsn) as address,
        events(address, "?project=shop&errors=1") as following,
    ):
        await until(following, "reset")
        await store.write([*others, wanted])
        assert shown(await until(following, "rows")) == [str(wanted.id)]


async def test_what_is_committed_after_the_first_list_arrives(tmp_path, dsn, store, monkeypatch):
    """However late the database is listened to. No look at what is latest finds this call."""
    listen = Viewer.listen

    @contextlib.asynccontextmanager
    async def late(viewer):
        await asyncio.sleep(0.5)
        async with listen(viewer) as listener:
            yield listener

    monkeypatch.setattr(Viewer, "listen", late)
    row = record(created_at=NOW - 2 * LIVE_SINCE)
    async with listening(tmp_path, dsn) as address, events(address) as following:
        await until(following, "reset")
        await store.write([row])
        assert shown(await until(following, "rows")) == [str(row.id)]


async def test_a_row_whose_reading_is_cut_off_arrives_later(tmp_path, dsn, store):
    """No look at what is latest finds this call either."""
    async with connected(dsn) as operator, connected(dsn) as locker:
        row = record(created_at=NOW - 2 * LIVE_SINCE)
        store._is_announcing = False
        await store.write([row])
        async with listening(tmp_path, dsn) as address, events(address) as following:
            await until(following, "reset")
            async with locker.transaction():
                await locker.execute("LOCK TABLE agent_telemetry")
                await operator.execute("SELECT pg_notify($1, $2)", CHANNEL, row.id.hex)
                async with asyncio.timeout(PATIENCE_S):
                    while not await operator.fetchval(
                        "SELECT bool_or(pg_terminate_backend(pid)) FROM pg_stat_activity "
                        "WHERE wait_event_type = 'Lock' AND datname = current_database() "
                        "AND query LIKE $1",
                        "%jsonb_path_query_array%",
                    ):
                        await asyncio.sleep(0.01)
            assert shown(await until(following, "rows")) == [str(row.id)]


async def test_a_page_that_is_opened_during_an_outage_is_told_so(tmp_path):
    away = "postgresql://nobody@127.0.0.1:1/none"
    async with listening(tmp_path, away) as address, events(address) as following:
        assert await following() == ("away", "")


async def test_the_filter_means_the_same_on_the_page_and_in_the_stream(tmp_path, dsn, store):
    """Invariant: `Filters.matches` selects what `live.sql` selects."""
    rows = [
        record(created_at=NOW, project_id=project, model_used=model, **end)
        for project in ("a", None)
        for model in ("m", "n")
        for end in (
            {"outcome": "complete"},
            {"outcome": None},
            {"outcome": "stream_error"},
            {"record_type": "turn_summary", "outcome": None, "stop_reason": "completed"},
            {"record_type": "turn_summary", "outcome": None, "stop_reason": "abandoned"},
        )
    ]
    queries = (
        *("?project=a", "?model=n", "?errors=1", "?kind=turns", "?kind=calls&errors=1"),
        *("?outcome=complete", "?outcome=abandoned", "?outcome=stream_error&project=a"),
        "?session=none",
    )
    async with listening(tmp_path, dsn) as address, contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(events(address, query)) for query in queries]
        for following in streams:
            await until(following, "reset")
        await store.write(rows)
        for query, following in zip(queries, streams, strict=True):
            page = shown(await get(address, f"/{query}"))
            came = [] if query == "?session=none" else shown(await until(following, "rows"))
            assert sorted(came) == sorted(page), query


async def test_a_page_is_told_of_an_outage_and_gets_everything_afterwards(
    tmp_path, dsn, store, postgres
):
    name = re.search(r"@/(\w+)\?", dsn)[1]
    async with (
        connected(postgres) as admin,
        listening(tmp_path, dsn) as address,
        events(address) as following,
    ):
        await until(following, "reset")
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
        )
        await until(following, "away")
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        row = record(created_at=NOW)
        async with asyncio.timeout(PATIENCE_S):
            while not await _written(store, row):
                await asyncio.sleep(0.05)
        while str(row.id) not in shown((await following())[1]):
            pass
        later = record(created_at=NOW)
        await store.write([later])
        while str(later.id) not in shown((await following())[1]):
            pass


async def _written(store, row):
    try:
        await store.write([row])
    except StoreUnavailable:
        return False
    return True


async def test_the_database_is_followed_once_and_only_while_a_page_is_open(
    tmp_path, dsn, store, connection
):

    async def listeners():
        return await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'listen%' AND "
            "datname = current_database()"
        )

    async def until_listeners(number):
        async with asyncio.timeout(PATIENCE_S):
            while await listeners() != number:
                await asyncio.sleep(0.05)

    async with listening(tmp_path, dsn) as address:
        async with events(address) as one, events(address) as other:
            await until(one, "reset")
            await until(other, "reset")
            await until_listeners(1)
        # A stream that is closed is noticed when something is sent, here a row.
        await store.write([record()])
        await until_listeners(0)


async def test_a_listener_that_stops_ends_its_streams(tmp_path, dsn):
    async with asyncio.timeout(PATIENCE_S):
        async with listening(tmp_path, dsn) as address:
            stream = events(address)
            following = await stream.__aenter__()
            await until(following, "reset")
    with pytest.raises((AssertionError, aiohttp.ClientError)):
        await following()
    await stream.__aexit__(None, None, None)


async def test_a_bad_filter_is_refused(tmp_path, dsn):
    async with (
        listening(tmp_path, dsn) as address,
        aiohttp.ClientSession() as session,
        session.get(f"{address}/live/events?kind=x") as answer,
    ):
        assert answer.status == 400
        assert "kind" in await answer.text()


async def test_what_is_not_announced_shows_after_a_while(tmp_path, dsn, monkeypatch, connection):
    monkeypatch.setattr("proxy.live.POLL_S", 0.05)
    async with listening(tmp_path, dsn) as address, events(address) as following:
        await until(following, "reset")
        id = await connection.fetchval(
            "INSERT INTO agent_telemetry (model_used, system_prompt, chat_history, duration_ms) "
            "VALUES ('m', '', '[]', 1) RETURNING id"
        )
        while str(id) not in shown(await until(following, "reset")):
            pass


async def test_a_page_that_does_not_keep_up_is_told_how_much_it_missed():
    page = Subscription(lambda row: True)
    for number in range(WAITING_MAX + 7):
        page.offer({"id": number})
    news = await page.news()
    assert (news.rows[0]["id"], len(news.rows), news.skipped) == (7, WAITING_MAX, 7)
    assert not news.is_gap
    page.note_gap()
    assert (await page.news()).is_gap
