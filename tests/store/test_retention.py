"""Retention: what is old goes with everything beside it, what is not stays, writers do not wait."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from proxy import config
from proxy.enrich.facts import link_of
from proxy.errors import StoreUnavailable
from proxy.record import Beside
from proxy.retention import Done, Retention
from proxy.store import partitions
from proxy.store.connection import connect
from proxy.store.partitions import UNDATED
from proxy.store.postgres import Store
from tests.commands.test_upkeep import OWN
from tests.commands.test_upkeep import SHARED as EVERYBODYS
from tests.store.rows import record
from tests.store.test_shared import VIEW, conversation, count
from tests.turns.scripts import DIGESTS

NOW = datetime.now(UTC).replace(hour=12)
OLD, NEW = NOW - timedelta(days=40), NOW - timedelta(hours=1)
TABLES = ("agent_telemetry", "agent_links", "agent_blobs", "agent_raw", "agent_contexts")
SHARED_TABLES = ("agent_chains", "agent_messages")


@pytest.fixture(params=["full", "shared"])
def settings(request):
    return config.Store(history=request.param)


@pytest.fixture
async def store(dsn, settings):
    async with Store(dsn, settings) as opened:
        yield opened


@pytest.fixture
async def dated(dsn):
    """A store that is partitioned, with its settings."""
    given = config.Store(history="shared", partitions=True, payload_retention_days=30)
    await Retention(dsn, given).round(NOW)
    async with Store(dsn, given) as opened:
        yield opened


async def write(store, rows, *, blobs=(), raw=None):
    listed = {"blobs": [blob.sha256 for blob in blobs]} if blobs else {}
    rows = [replace(row, capture={**(row.capture or {}), **listed}) for row in rows]
    await store.write(rows, {row.id: Beside(blobs, raw, link_of(row, DIGESTS)) for row in rows})
    return rows


def at(instant, rows):
    return [replace(row, created_at=instant + timedelta(seconds=n)) for n, row in enumerate(rows)]


async def sizes(store, tables=TABLES):
    return {table: await count(store, table) for table in tables}


async def test_rows_go_with_everything_beside_them(store, dsn, settings):
    await write(store, at(OLD, conversation(rounds=6)), blobs=(OWN, EVERYBODYS), raw=b"raw")
    kept = await write(store, at(NEW, conversation(rounds=3)), blobs=(EVERYBODYS,), raw=b"raw")
    await store.quarantine(uuid4(), OLD, "sqlstate 22000", b"never a row")
    for session, name in (("s", "stays"), ("gone", "goes")):
        await store.execute(
            "INSERT INTO agent_feedback (id, created_at, session_id, name, value)"
            " VALUES ($1, $2, $3, $4, '1')",
            *(uuid4(), OLD, session, name),
        )
    limited = settings.model_copy(update={"retention_days": 30})
    done = await Retention(dsn, limited).round(NOW)
    assert done == Done(rows_deleted=6)
    shared = 3 if settings.history == "shared" else 0
    assert await sizes(store) == {
        "agent_telemetry": 3,
        "agent_links": 3,
        "agent_blobs": 1,
        "agent_raw": 3,
        "agent_contexts": shared,
    }
    assert [row["name"] for row in await store.fetch("SELECT name FROM agent_feedback")] == [
        "stays"
    ]
    assert [row["chat_history"] for row in await store.fetch(VIEW)] == [
        row.chat_history for row in sorted(kept, key=lambda row: row.id)
    ]
    messages = {json.dumps(message) for row in kept for message in row.chat_history}
    assert await count(store, "agent_messages") == (len(messages) + 2 if shared else 0)
    assert await Retention(dsn, limited).round(NOW) == Done()


async def test_payload_goes_and_metadata_stays(store, dsn, settings):
    tool = [{"id": "a", "name": "grep", "arguments": {"q": "secret"}, "raw": "secret"}]
    result = [{"id": "a", "name": "grep", "output": "secret", "is_error": False, "latency_ms": 5}]
    old = replace(
        conversation(rounds=2)[-1],
        created_at=OLD,
        tool_calls=tool,
        tool_results=result,
        user_message="secret",
        response_text="secret",
        response_thoughts="secret",
        capture={"request_bytes": 9, "choices": ["secret"]},
        labels={"env": "test"},
        usage={"n": 1},
        chat_history=[{"role": "user", "content": "secret"}],
        system_prompt="secret",
        request_params={"tools": ["secret"], "stop": "secret"},
    )
    await write(store, [old], blobs=(OWN,), raw=b"secret")
    (kept,) = await write(store, [replace(old, id=uuid4(), created_at=NEW)])
    limited = settings.model_copy(update={"payload_retention_days": 30})
    retention = Retention(dsn, limited)
    assert await retention.round(NOW) == Done(rows_expired=1)
    assert await retention.round(NOW) == Done()
    assert await Retention(dsn, limited).round(NOW) == Done()
    found = {row["id"]: row for row in await store.fetch(VIEW)}
    row = found[old.id]
    assert "secret" not in repr(row)
    assert (row["system_prompt"], row["chat_history"], row["request_params"]) == ("", [], None)
    assert row["tool_calls"] == [{"id": "a", "name": "grep", "arguments": None}]
    assert row["tool_results"] == [
        {"id": "a", "name": "grep", "output": None, "is_error": False, "latency_ms": 5}
    ]
    assert row["capture"] == {"request_bytes": 9, "content": "metadata", "payload": "expired"}
    assert (row["labels"], row["usage"], row["duration_ms"]) == ({"env": "test"}, {"n": 1}, 1000)
    assert "secret" in repr(found[kept.id]["chat_history"])
    links = {row["call_id"]: row for row in await store.fetch("SELECT * FROM agent_links")}
    assert "secret" not in repr(links[old.id])
    left = await sizes(store)
    assert (left["agent_blobs"], left["agent_raw"]) == (0, 0)
    assert left["agent_contexts"] == (settings.history == "shared")


@pytest.mark.parametrize("capture", [None, [], 5, "text", {"blobs": 5}])
async def test_rows_of_unusual_shape_do_not_hold_the_others_up(store, dsn, settings, capture):
    await store.write(
        [record(created_at=OLD, capture=capture, tool_calls={"a": 1}), *at(OLD, [record()])]
    )
    limited = settings.model_copy(update={"payload_retention_days": 1})
    assert (await Retention(dsn, limited).round(NOW)).rows_expired == 2


async def test_what_comes_late_is_found_a_day_later(store, dsn, settings):
    limited = settings.model_copy(update={"payload_retention_days": 30})
    retention = Retention(dsn, limited)
    await store.write(at(OLD, [record()]))
    assert (await retention.round(NOW)).rows_expired == 1
    await store.write([record(created_at=OLD - timedelta(days=1))])
    assert (await retention.round(NOW + timedelta(minutes=30))).rows_expired == 0
    await retention.round(NOW + timedelta(days=1))
    assert (await retention.round(NOW + timedelta(days=1))).rows_expired == 1


async def test_only_one_works_at_a_time(store, dsn, settings):
    await store.write(at(OLD, [record() for _ in range(3)]))
    limited = settings.model_copy(update={"retention_days": 30})
    done = await asyncio.gather(*(Retention(dsn, limited).round(NOW) for _ in range(4)))
    assert sum(each.rows_deleted for each in done) == 3


async def test_writing_goes_on_while_rows_are_deleted(store, dsn, settings):
    old = [record(created_at=OLD + timedelta(seconds=n)) for n in range(3000)]
    for start in range(0, 3000, 500):
        await store.write(old[start : start + 500])
    limited = settings.model_copy(update={"retention_days": 30})
    retiring = asyncio.create_task(Retention(dsn, limited).round(NOW))
    written = 0
    while not retiring.done():
        await store.write([record(created_at=NEW)])
        written += 1
    assert (await retiring).rows_deleted == 3000
    assert written > 1
    assert await count(store, "agent_telemetry") == written


async def test_the_payload_of_a_day_is_dropped_at_once(dated, dsn):
    today = NOW.date()
    connection = await connect(dsn)
    assert await partitions.days(connection) == [today + timedelta(days=n) for n in range(3)]
    rows = at(NOW - timedelta(minutes=1), conversation(rounds=4))
    await dated.write(rows)
    early = at(OLD, conversation(rounds=2))
    await dated.write(early)  # no table is open for its day
    days = await dated.fetch("SELECT day, count(*) AS n FROM agent_contexts GROUP BY 1 ORDER BY 1")
    assert days == [{"day": UNDATED, "n": 2}, {"day": today, "n": 4}]
    found = {row["id"]: row["chat_history"] for row in await dated.fetch(VIEW)}
    assert found == {row.id: row.chat_history for row in (*rows, *early)}
    limits = config.Store(history="shared", partitions=True, payload_retention_days=30)
    done = await Retention(dsn, limits).round(NOW + timedelta(days=32))
    assert done == Done(days_dropped=2, rows_expired=6)
    assert await sizes(dated, ("agent_contexts", *SHARED_TABLES)) == {
        "agent_contexts": 0,
        "agent_chains": 0,
        "agent_messages": 0,
    }
    assert {row["capture"]["payload"] for row in await dated.fetch(VIEW)} == {"expired"}
    connection.terminate()


async def test_a_day_that_is_read_is_dropped_later_and_nobody_waits(dated, dsn):
    await dated.write(at(NOW, conversation(rounds=2)))
    reader, later = await connect(dsn), NOW + timedelta(days=32)
    limits = config.Store(history="shared", partitions=True, payload_retention_days=30)
    async with reader.transaction(isolation="repeatable_read", readonly=True):
        await reader.fetch("SELECT * FROM agent_messages")
        done = await Retention(dsn, limits).round(later)
        assert done.days_dropped == 0
        await dated.write(at(NOW, conversation(rounds=1)))
    reader.terminate()
    assert (await Retention(dsn, limits).round(later)).days_dropped > 0


async def test_tables_of_days_can_be_made_by_several_at_once(dsn):
    days = [NOW.date() + timedelta(days=n) for n in range(10)]

    async def make():
        connection = await connect(dsn)
        await partitions.ensure(connection, days)
        connection.terminate()

    await asyncio.gather(*(make() for _ in range(4)))
    connection = await connect(dsn)
    assert await partitions.days(connection) == days
    connection.terminate()


async def test_a_database_that_is_away_is_waited_for():
    limits = config.Store(retention_days=1)
    with pytest.raises(StoreUnavailable):
        await Retention("postgresql://nobody@127.0.0.1:1/none", limits).round(NOW)
