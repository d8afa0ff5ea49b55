"""A reader that follows sees every row once, however late it is committed."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from proxy.errors import StoreUnavailable
from proxy.store import follow as module
from proxy.store.follow import follow
from proxy.store.postgres import Store
from proxy.store.selection import Selection
from tests.database import connected
from tests.store.rows import record


@pytest.fixture
async def reader(dsn):
    async with Store(dsn) as opened:
        yield opened


def call(seconds_ago=0, **values):
    return record(created_at=datetime.now(UTC) - timedelta(seconds=seconds_ago), **values)


async def texts(rows, count):
    async with asyncio.timeout(20):
        return [(await anext(rows))["response_text"] for _ in range(count)]


async def test_the_last_rows_come_first_and_then_new_ones(store, reader):
    await store.write([call(9, response_text=f"old {n}") for n in range(5)])
    rows = follow(reader, Selection(), last=2)
    assert len(await texts(rows, 2)) == 2
    await store.write([call(0, response_text="new")])
    assert await texts(rows, 1) == ["new"]
    await rows.aclose()


async def test_a_long_call_is_shown_when_it_is_committed(store, reader):
    await store.write([call(10, response_text="short")])
    rows = follow(reader, Selection())
    assert await texts(rows, 1) == ["short"]
    await store.write([call(5, response_text="between")])
    assert await texts(rows, 1) == ["between"]
    await store.write([call(86_400, response_text="began yesterday")])
    assert await texts(rows, 1) == ["began yesterday"]
    await rows.aclose()


async def test_a_replaced_row_comes_again(store, reader):
    crashed = call(outcome="proxy_crashed", response_text="crashed")
    rows = follow(reader, Selection())
    await store.write([crashed])
    assert await texts(rows, 1) == ["crashed"]
    await store.write([record(id=crashed.id, response_text="whole")])
    assert await texts(rows, 1) == ["whole"]
    await rows.aclose()


async def check_the_next_look_repeats_nothing(rows, store, reader):
    """A call is committed as the reader looks: it is found, and it is announced."""
    look = reader.recent_ids

    async def recent_ids(window_s):
        reader.recent_ids = look
        await store.write([call(response_text="in between")])
        return await look(window_s)

    reader.recent_ids = recent_ids
    assert await texts(rows, 1) == ["in between"]
    await store.write([call(response_text="later")])
    assert await texts(rows, 1) == ["later"]
    await rows.aclose()


async def test_a_row_of_the_first_look_is_not_repeated(store, reader):
    rows = follow(reader, Selection())
    await check_the_next_look_repeats_nothing(rows, store, reader)


async def test_a_row_of_a_later_look_is_not_repeated(store, reader):
    """Nothing was announced for a while."""
    rows = follow(reader, Selection(), poll_s=0.05)
    await store.write([call(response_text="first")])
    assert await texts(rows, 1) == ["first"]
    await check_the_next_look_repeats_nothing(rows, store, reader)


async def test_only_selected_rows_are_shown(store, reader):
    rows = follow(reader, Selection(project="shop", errors=True))
    await store.write(
        [
            call(3, response_text="other project", outcome="upstream_error"),
            call(2, response_text="fine", project_id="shop"),
            call(1, response_text="wanted", project_id="shop", outcome="upstream_error"),
        ]
    )
    assert await texts(rows, 1) == ["wanted"]
    await rows.aclose()


async def test_rows_are_found_where_nothing_is_announced(store, reader, dsn):
    await store.write([call(4, response_text="before")])
    rows = follow(reader, Selection(), last=1, poll_s=0.05)
    assert await texts(rows, 1) == ["before"]
    store._is_announcing = False
    await store.write([call(3, response_text="first"), call(2, response_text="second")])
    assert sorted(await texts(rows, 2)) == ["first", "second"]
    store._is_announcing = False
    await store.write([call(1, response_text="third")])
    assert await texts(rows, 1) == ["third"]
    await rows.aclose()


async def test_a_lost_connection_is_made_again_and_nothing_is_missed(
    store, reader, dsn, monkeypatch
):
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    rows = follow(reader, Selection())
    await store.write([call(response_text="first")])
    assert await texts(rows, 1) == ["first"]
    async with connected(dsn) as operator:
        for n in range(5):
            await operator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database() "
                "AND query LIKE '%LISTEN%'"
            )
            await store.write([call(response_text=f"row {n}")])
            assert await texts(rows, 1) == [f"row {n}"]
    await rows.aclose()


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_row_whose_reading_is_cut_off_is_read_again(
    store, reader, dsn, monkeypatch, is_announced
):
    """Also one that no look would find: its call began long ago."""
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    rows = follow(reader, Selection(), poll_s=20 if is_announced else 0.05)
    await store.write([call(response_text="first")])
    assert await texts(rows, 1) == ["first"]
    store._is_announcing = is_announced
    await store.write([call(86_400 if is_announced else 5, response_text="cut off")])
    async with connected(dsn) as operator, connected(dsn) as locker:
        read = reader.rows

        async def rows_while_locked(ids, selection):
            reader.rows = read
            await locker.execute("BEGIN; LOCK TABLE agent_telemetry")
            reading = asyncio.create_task(read(ids, selection))
            while not await operator.fetchval(
                "SELECT bool_or(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE wait_event_type = 'Lock' AND datname = current_database()"
            ):
                await asyncio.sleep(0.01)
            try:
                return await reading
            finally:
                await locker.execute("ROLLBACK")

        reader.rows = rows_while_locked
        assert await texts(rows, 1) == ["cut off"]
        await store.write([call(response_text="later")])
        assert await texts(rows, 1) == ["later"]
    await rows.aclose()


async def test_a_database_that_is_away_from_the_start_is_said(tmp_path):
    rows = follow(Store(f"postgresql://x@/x?host={tmp_path}"), Selection())
    with pytest.raises(StoreUnavailable):
        await anext(rows)


SELECTIONS = [
    (Selection(), "abcdefg"),
    (Selection(project="p"), "b"),
    (Selection(session="s"), "c"),
    (Selection(model="m"), "d"),
    (Selection(errors=True), "eg"),
    (Selection(turns=True), "fg"),
    (Selection(turns=True, errors=True), "g"),
    (Selection(since=datetime(2026, 1, 4, tzinfo=UTC)), "defg"),
    (Selection(until=datetime(2026, 1, 4, tzinfo=UTC)), "abc"),
    (Selection(project="p", session="s"), ""),
    (Selection(project="'; DROP TABLE agent_telemetry; --"), ""),
]


async def test_a_selection_holds_the_rows_that_meet_all_conditions(store):
    rows = [
        {"response_text": "a"},
        {"response_text": "b", "project_id": "p"},
        {"response_text": "c", "session_id": "s"},
        {"response_text": "d", "model_used": "m"},
        {"response_text": "e", "outcome": "stream_error"},
        {"response_text": "f", "record_type": "turn_summary", "stop_reason": "completed"},
        {"response_text": "g", "record_type": "turn_summary", "stop_reason": "abandoned"},
    ]
    await store.write(
        [
            record(created_at=datetime(2026, 1, day, tzinfo=UTC), **values)
            for day, values in enumerate(rows, 1)
        ]
    )
    for selection, wanted in SELECTIONS:
        found = await store.latest(selection, 100)
        assert "".join(row["response_text"] for row in found) == wanted, selection
        assert found[-2:] == await store.latest(selection, 2), selection
