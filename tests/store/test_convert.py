"""Conversion to shared rows and back: every row reads the same before, meanwhile and after."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from uuid import uuid4

import pytest

from proxy.record import COLUMNS, Beside
from proxy.store import convert
from proxy.store.connection import connect
from proxy.store.migrate import migrate
from proxy.store.postgres import Store
from proxy.store.shared import SharedWriter
from proxy.store.storable import storable
from tests.database import connected
from tests.store.rows import POISON, record
from tests.store.test_prune import until_somebody_waits
from tests.store.test_shared import SHARED, VIEW, conversation, count

SHARED_TABLES = ("agent_contexts", "agent_chains", "agent_messages")


def counted(rows):
    return lambda count: None


async def share(dsn):
    return await convert.share(dsn, counted, is_partitioned=False)


async def sizes(store):
    return [await count(store, table) for table in SHARED_TABLES]


async def test_there_and_back_again(store, dsn):
    rows = [*conversation(rounds=8), *conversation(rounds=3, session="t"), record()]
    turn = record(record_type="turn_summary", chat_history=[], tool_results=[{"output": "x"}])
    await store.write([*rows, turn])
    before = await store.fetch(VIEW)
    assert await share(dsn) == len(rows)
    assert await store.fetch(VIEW) == before
    assert {
        repr(row["chat_history"]) for row in await store.fetch("SELECT * FROM agent_telemetry")
    } == {"[]"}
    assert await share(dsn) == 0
    assert await convert.restore(dsn, counted) == len(rows)
    assert await store.fetch("SELECT * FROM agent_telemetry ORDER BY id") == before
    assert await sizes(store) == [0, 0, 0]


async def test_what_is_converted_and_what_is_written_have_the_same_names(store, dsn):
    rows = conversation(rounds=6)
    await store.write(rows[:4])
    await share(dsn)
    before = await sizes(store)
    async with Store(dsn, SHARED) as later:
        await later.write([replace(rows[3], id=uuid4())])
    assert (await sizes(store))[1:] == before[1:]


async def test_odd_values_survive(store, dsn):
    await store.write([record(**values) for values in POISON])
    before = [repr(row) for row in await store.fetch(VIEW)]
    await share(dsn)
    assert [repr(row) for row in await store.fetch(VIEW)] == before
    await convert.restore(dsn, counted)
    assert [repr(row) for row in await store.fetch(VIEW)] == before


ODD = [
    '[{"n": 0.1000000000000000055511151231257827}]',
    '[{"n": 1.10}]',
    '[{"n": 1e400}]',
    '[{"n": 123456789012345678901234567890}]',
    "[" + '{"a":' * 900 + "1" + "}" * 900 + "]",
]


async def test_a_table_that_was_there_before_is_taken_over_and_converted(empty_dsn):
    async with connected(empty_dsn) as connection:
        await connection.execute(
            "CREATE TABLE agent_telemetry (id UUID PRIMARY KEY, created_at TIMESTAMPTZ, model_used"
            " VARCHAR(255) NOT NULL, system_prompt TEXT NOT NULL, chat_history JSONB NOT NULL,"
            " duration_ms INTEGER NOT NULL, record_type TEXT NOT NULL DEFAULT 'llm_call')"
        )
        insert = "INSERT INTO agent_telemetry VALUES ($1, $2, 'm', 'be brief', $3, 5)"
        for history in ODD:
            await connection.execute(insert, uuid4(), None, history)
        await migrate(empty_dsn)
        texts = "SELECT id, chat_history::text, system_prompt FROM agent_telemetry_full ORDER BY id"
        before = await connection.fetch(texts)
        assert await share(empty_dsn) == len(ODD)
        assert await connection.fetch(texts) == before
        await convert.restore(empty_dsn, counted)
        assert await connection.fetch(texts) == before


async def test_rows_that_somebody_works_on_are_converted_in_the_end(store, dsn):
    rows = conversation(rounds=4)
    await store.write(rows)
    busy = await connect(dsn)
    async with busy.transaction():
        await busy.fetch("SELECT FROM agent_telemetry WHERE id = $1 FOR UPDATE", rows[0].id)
        assert await share(dsn) == 3
    busy.terminate()
    assert await share(dsn) == 1


async def test_a_row_is_amended_while_it_is_converted(store, dsn):
    (row,) = conversation(rounds=1)
    await store.write([row])
    values = dict(zip(COLUMNS, storable(replace(row, system_prompt="amended")), strict=True))
    converting = await connect(dsn)
    writer = SharedWriter(is_partitioned=False)
    async with converting.transaction():
        await converting.execute("SELECT FROM agent_telemetry FOR UPDATE")
        list(writer.rows([row]))
        await writer.write(converting, [row.id])
        await converting.execute("UPDATE agent_telemetry SET system_prompt = ''")
        amending = asyncio.create_task(
            store.amend(row.id, {"system_prompt": values["system_prompt"]}, Beside())
        )
        await until_somebody_waits(dsn)
    converting.terminate()
    assert await amending
    (found,) = await store.fetch(VIEW)
    assert found["system_prompt"] == "amended"
    assert found["chat_history"] == row.chat_history


async def test_recording_goes_on_meanwhile(store, dsn):
    before = [row for n in range(30) for row in conversation(rounds=4, session=f"old {n}")]
    await store.write(before)
    converting = asyncio.create_task(share(dsn))
    new = []
    async with Store(dsn, SHARED) as writer:
        while not converting.done():
            rows = conversation(rounds=3, session=f"old {len(new) % 40}")
            await writer.write(rows)
            new += rows
        await converting
    found = {row["id"]: row["chat_history"] for row in await store.fetch(VIEW)}
    assert found == {row.id: row.chat_history for row in (*before, *new)}


@pytest.mark.parametrize("history", ["shared", "full"])
async def test_a_conversion_that_is_killed_goes_on_where_it_stopped(dsn, tmp_path, history):
    async with Store(dsn, SHARED if history == "full" else None) as written:
        for n in range(10):
            await written.write(conversation(rounds=20, session=f"s{n}"))
        before = await written.fetch(VIEW)
        goal = 200 if history == "shared" else 0
        for _ in range(2):
            now = await count(written, "agent_contexts")
            process = await _command(dsn, tmp_path, history)
            await _until_moved(written, now, process)
            os.kill(process.pid, signal.SIGKILL)
            await process.communicate()
            assert await written.fetch(VIEW) == before
        left = abs(goal - await count(written, "agent_contexts"))
        assert 0 < left < 200, "it was not killed in the middle"
        process = await _command(dsn, tmp_path, history)
        out, _ = await process.communicate()
        assert (process.returncode, json.loads(out)["converted"]) == (0, left)
        assert await written.fetch(VIEW) == before


async def _command(dsn, tmp_path, history):
    environment = {
        **os.environ,
        "AGENT_TELEMETRY__DATA_DIR": str(tmp_path),
        "DATABASE_URL": dsn,
        "AGENT_TELEMETRY__STORE__HISTORY": history,
    }
    command = (sys.executable, "-m", "proxy", "migrate", "--convert", "--json")
    return await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE
    )


async def _until_moved(store, before, process):
    """Until the conversion has committed something, or has ended."""
    async with asyncio.timeout(120):
        while await count(store, "agent_contexts") == before:
            assert process.returncode is None
            await asyncio.sleep(0.002)
