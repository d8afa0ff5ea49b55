"""Pruning takes what nothing refers to, and never what a new call refers to."""

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from proxy.store.connection import connect
from proxy.store.postgres import Store
from proxy.store.prune import release, sweep
from proxy.store.purge import Scope, purge
from proxy.store.shared import SharedWriter
from tests.store.rows import record
from tests.store.test_shared import SHARED, VIEW, conversation, count

FUTURE = datetime(2100, 1, 1, tzinfo=UTC)
TABLES = ("agent_telemetry", "agent_contexts", "agent_chains", "agent_messages")


@pytest.fixture
async def store(dsn):
    async with Store(dsn, SHARED) as opened:
        yield opened


async def purge_session(dsn, session):
    return await purge(dsn, Scope(FUTURE, session=session), lambda count: None)


async def sizes(store):
    return [await count(store, table) for table in TABLES]


async def test_a_purge_leaves_nothing_of_a_conversation(store, dsn):
    await store.write(conversation(rounds=30))
    done = await purge_session(dsn, "s")
    assert (done.rows, done.messages) == (30, 61)
    assert await sizes(store) == [0, 0, 0, 0]


async def test_what_another_conversation_refers_to_stays(store, dsn):
    kept, gone = conversation(rounds=4), conversation(rounds=8)
    gone = [replace(row, session_id="gone") for row in gone]
    shared = [
        replace(row, id=uuid4(), session_id="kept too", chat_history=row.chat_history[:3])
        for row in gone[3:4]
    ]
    await store.write([*kept, *gone, *shared])
    await purge_session(dsn, "gone")
    rows = {row["id"]: row for row in await store.fetch(VIEW)}
    assert rows.keys() == {row.id for row in (*kept, *shared)}
    for row in (*kept, *shared):
        assert rows[row.id]["chat_history"] == row.chat_history
        assert rows[row.id]["system_prompt"] == row.system_prompt
    used = {repr(message) for row in (*kept, *shared) for message in row.chat_history}
    assert await count(store, "agent_messages") == len(used) + 2


async def test_a_sweep_takes_what_was_left_over_and_nothing_else(store, dsn):
    rows = conversation(rounds=5)
    await store.write(rows)
    half = [{"role": "user", "content": "half"}, {"role": "user", "content": "a call"}]
    crashed = record(outcome="proxy_crashed", chat_history=half)
    await store.write([crashed])
    await store.write([replace(crashed, outcome="complete", chat_history=rows[0].chat_history)])
    await store.write(conversation(rounds=3, session="by hand"))
    await store.fetch("DELETE FROM agent_telemetry WHERE session_id = 'by hand' RETURNING id")
    connection = await connect(dsn)
    assert await sweep(connection) == 7  # five messages of one, two of the other
    assert await sweep(connection) == 0
    connection.terminate()
    found = {row["id"]: row["chat_history"] for row in await store.fetch(VIEW)}
    assert found == {
        **{row.id: row.chat_history for row in rows},
        crashed.id: rows[0].chat_history,
    }


async def test_what_a_writer_is_about_to_refer_to_is_not_pruned(store, dsn):
    rows = conversation(rounds=4)
    await store.write(rows)
    late = replace(rows[-1], id=uuid4(), session_id="late")
    writer, connection = SharedWriter(is_partitioned=False), await connect(dsn)
    async with connection.transaction():
        list(writer.rows([late]))
        await writer.write(connection, [late.id])
        assert (await purge_session(dsn, "s")).messages == 0
    connection.terminate()
    await store.write([late])
    (found,) = await store.fetch(VIEW)
    assert found["chat_history"] == late.chat_history
    assert found["system_prompt"] == late.system_prompt


async def test_what_is_pruned_just_now_is_stored_again(store, dsn):
    rows = conversation(rounds=4)
    await store.write(rows)
    late = replace(rows[-1], id=uuid4(), session_id="late")
    connection = await connect(dsn)
    async with connection.transaction():
        assert await release(connection, [row.id for row in rows]) == 9
        writing = asyncio.create_task(store.write([late]))
        await until_somebody_waits(dsn)
    connection.terminate()
    await writing
    rows = {row["id"]: row for row in await store.fetch(VIEW)}
    assert rows[late.id]["chat_history"] == late.chat_history
    assert rows[late.id]["system_prompt"] == late.system_prompt


async def until_somebody_waits(dsn):
    connection = await connect(dsn)
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(20):
        while not await connection.fetchval(query):
            await asyncio.sleep(0.01)
    connection.terminate()


async def test_nothing_a_new_call_refers_to_is_lost_while_others_purge(dsn):
    """Writers use the same few messages over and over while everything old is purged."""
    chance = random.Random(7)
    expected = {}
    is_over = asyncio.Event()

    def history():
        words = [chance.choice("ab") for _ in range(chance.randint(1, 6))]
        return [{"role": "user", "content": word} for word in words]

    async def write(number):
        async with Store(dsn, SHARED) as target:
            for at in range(120):
                rows = [
                    record(
                        id=uuid4(),
                        chat_history=history(),
                        system_prompt=chance.choice(["p", "q"]),
                        session_id=chance.choice(["kept", "gone", "gone", "gone"]),
                        created_at=datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=at),
                    )
                    for _ in range(chance.randint(1, 5))
                ]
                result = await target.write(rows)
                assert not result.rejected
                expected.update((row.id, row) for row in rows if row.session_id == "kept")

    async def prune():
        while not is_over.is_set():
            await purge_session(dsn, "gone")
            connection = await connect(dsn)
            await sweep(connection)
            connection.terminate()

    pruning = [asyncio.create_task(prune()) for _ in range(2)]
    try:
        await asyncio.gather(*(write(number) for number in range(3)))
    finally:
        is_over.set()
        await asyncio.gather(*pruning)
    async with Store(dsn) as store:
        rows = {row["id"]: row for row in await store.fetch(VIEW) if row["session_id"] == "kept"}
        await purge_session(dsn, "gone")
        await purge_session(dsn, "kept")
    assert rows.keys() == expected.keys()
    for id, row in rows.items():
        assert row["chat_history"] == expected[id].chat_history
        assert row["system_prompt"] == expected[id].system_prompt
