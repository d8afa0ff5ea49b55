"""Shared histories: the view shows what `full` would hold, and content is there once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy import config
from proxy.record import COLUMNS, Beside
from proxy.store.postgres import Store
from proxy.store.sharing import ALONE_CHARS_MAX, MESSAGES_MAX, split
from proxy.store.storable import storable
from tests.store.rows import NUMBERS, POISON, STRUCTURES, record
from tests.turns.scripts import Talk

SHARED = config.Store(history="shared")
VIEW = "SELECT * FROM agent_telemetry_full ORDER BY id"
TABLE = "SELECT * FROM agent_telemetry ORDER BY id"


@pytest.fixture
async def store(dsn):
    async with Store(dsn, SHARED) as opened:
        yield opened


@pytest.fixture
async def full(other_dsn):
    async with Store(other_dsn) as opened:
        yield opened


async def count(store, table):
    return (await store.fetch(f"SELECT count(*) AS n FROM {table}"))[0]["n"]


def conversation(rounds=5, session="s", tools=({"name": "read", "schema": {"a": 1}},)):
    """The calls of an agent with a prompt, schemas, and a tool in each round."""
    talk = Talk(session).user(f"hello from {session}")
    for n in range(rounds):
        talk.call(f"I look, {n}", [("read", {"path": f"{session}/{n}"})]).results(f"content {n}")
    params = {"tools": list(tools), "temperature": 0.5}
    return [
        replace(row, system_prompt="You are an agent.", request_params=params)
        for row in talk.records
    ]


async def test_the_view_shows_what_the_table_would_hold(store, full):
    rows = conversation()
    await store.write(rows)
    await full.write(rows)
    assert await store.fetch(VIEW) == await full.fetch(TABLE) == await full.fetch(VIEW)


async def test_content_is_there_once_however_many_calls_refer_to_it(store):
    rows = conversation(rounds=6)
    await store.write(rows[:3])
    await store.write(rows[3:])
    again = conversation(rounds=6)
    await store.write([replace(row, session_id="other") for row in again[:1]])
    messages = {orjson_of(message) for row in rows for message in row.chat_history}
    messages |= {orjson_of(message) for message in again[0].chat_history}
    assert await count(store, "agent_messages") == len(messages) + 2  # the prompt and the schemas
    assert await count(store, "agent_contexts") == 7


def orjson_of(value):
    return repr(sorted(value.items(), key=str))


async def test_the_row_itself_holds_small_values_instead(store):
    row = conversation(rounds=2)[1]
    await store.write([row])
    (found,) = await store.fetch("SELECT * FROM agent_telemetry")
    assert (found["chat_history"], found["system_prompt"]) == ([], "")
    assert found["request_params"] == {"temperature": 0.5}


@pytest.mark.parametrize("is_long", [False, True])
async def test_a_short_message_that_is_alone_stays_in_its_row(store, is_long):
    text = "x" * (ALONE_CHARS_MAX if is_long else 100)
    row = record(chat_history=[{"role": "user", "content": text}])
    answered = [*row.chat_history, {"role": "assistant", "content": "hi"}]
    await store.write([row])
    assert await count(store, "agent_messages") == int(is_long)
    (found,) = await store.fetch(TABLE)
    assert found["chat_history"] == ([] if is_long else row.chat_history)
    going_on = replace(row, id=uuid4(), chat_history=answered)
    await store.write([going_on])
    rows = {row["id"]: row["chat_history"] for row in await store.fetch(VIEW)}
    assert rows == {row.id: row.chat_history, going_on.id: answered}


SHARES = {"system_prompt": "p", "request_params": {"tools": [1]}}


async def test_what_databases_choke_on_is_the_same_in_both(store, full):
    rows = [record(**{**SHARES, **values, "id": UUID(int=n)}) for n, values in enumerate(POISON)]
    rows += [
        record(id=UUID(int=1000 + n), chat_history=[{"role": "user", "content": value}])
        for n, value in enumerate([*STRUCTURES[:16], *NUMBERS])
    ]
    for start in range(0, len(rows), 40):
        a = await store.write(rows[start : start + 40])
        b = await full.write(rows[start : start + 40])
        assert (a.written, dict(a.rejected)) == (b.written, dict(b.rejected))
    ours, theirs = await store.fetch(VIEW), await full.fetch(TABLE)
    for mine, his, row in zip(ours, theirs, rows, strict=True):
        assert repr(mine) == repr(his), row.id


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
RECORDS = st.builds(
    record,
    id=st.uuids(version=4),
    system_prompt=st.text(max_size=12),
    chat_history=st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=3), max_size=5)
    | JSON,
    request_params=st.none()
    | st.dictionaries(
        st.sampled_from(["tools", "format", "text", "temperature", "metadata"]), JSON, max_size=4
    ),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(RECORDS, min_size=1, max_size=6, unique_by=lambda row: row.id))
def test_any_record_reads_the_same_from_both(dsn, other_dsn, rows):
    # Invariant: every column of the view is JSON-equal to the column that `full` writes.
    async def compare():
        async with Store(dsn, SHARED) as ours, Store(other_dsn) as theirs:
            await ours.write(rows)
            await theirs.write(rows)
            ids = [row.id for row in rows]
            query = "SELECT * FROM {} WHERE id = ANY($1) ORDER BY id"
            found = await ours.fetch(query.format("agent_telemetry_full"), ids)
            expected = await theirs.fetch(query.format("agent_telemetry"), ids)
            assert repr(found) == repr(expected)

    asyncio.run(compare())


def test_a_history_of_unusual_shape_stays_in_the_row():
    row, shared = split(record(chat_history={"a": 1}))
    assert (row[COLUMNS.index("chat_history")], shared) == ('{"a":1}', None)
    row, shared = split(record(chat_history=[{"n": n} for n in range(MESSAGES_MAX + 1)]))
    assert shared is None


async def test_a_crash_is_replaced_with_what_it_refers_to(store):
    first, second = conversation(rounds=2)
    crashed = replace(first, outcome="proxy_crashed")
    await store.write([crashed])
    await store.write([replace(second, id=first.id)])
    (found,) = await store.fetch(VIEW)
    assert found["chat_history"] == second.chat_history
    await store.write([crashed])
    assert (await store.fetch(VIEW))[0]["chat_history"] == second.chat_history


async def test_a_shared_row_that_a_full_one_replaces_holds_everything_itself(store, dsn):
    (row,) = conversation(rounds=1)
    await store.write([replace(row, outcome="proxy_crashed", chat_history=[{"role": "user"}])])
    async with Store(dsn) as plain:
        await plain.write([row])
    assert await count(store, "agent_contexts") == 0
    (found,) = await store.fetch(VIEW)
    assert found["chat_history"] == row.chat_history


async def test_amended_columns_are_shared_too(store):
    first, other = conversation(rounds=2)
    await store.write([first])
    values = dict(zip(COLUMNS, storable(other), strict=True))
    changed = {name: values[name] for name in ("chat_history", "response_text", "request_params")}
    assert await store.amend(first.id, changed, Beside())
    (found,) = await store.fetch(VIEW)
    assert found["chat_history"] == other.chat_history
    assert found["system_prompt"] == "You are an agent."
    assert (await store.fetch(TABLE))[0]["chat_history"] == []


async def test_a_refused_row_does_not_take_the_others_with_it(store):
    await store.fetch('ALTER TABLE agent_messages ADD CHECK (content <> \'{"content": "bad"}\')')
    first = {"content": "first"}
    bad = record(chat_history=[first, {"content": "bad"}])
    good = [record(chat_history=[first, {"content": f"good {n}"}]) for n in range(20)]
    result = await store.write([*good[:7], bad, *good[7:]])
    assert set(result.rejected) == {bad.id}
    rows = {row["id"]: row for row in await store.fetch(VIEW)}
    assert all(rows[row.id]["chat_history"] == row.chat_history for row in good)
    assert rows[bad.id]["capture"]["rejected"] == "23514"


async def test_what_was_remembered_and_then_pruned_is_stored_again(store, connection):
    rows = conversation(rounds=4)
    await store.write(rows[:3])
    for table in ("agent_contexts", "agent_chains", "agent_messages", "agent_telemetry"):
        await connection.execute(f"DELETE FROM {table}")
    await store.write(rows[3:])
    (found,) = await store.fetch(VIEW)
    assert found["chat_history"] == rows[3].chat_history


async def test_writers_of_the_same_conversations_do_not_lock_each_other_out(store, dsn):
    async with Store(dsn, SHARED) as second:
        talks = [conversation(rounds=6, session=f"s{n % 3}") for n in range(6)]

        async def write(target, order):
            for talk in order:
                for row in talk:
                    await target.write([row])

        await asyncio.gather(write(store, talks), write(second, talks[::-1]))
    found = {row["id"]: row["chat_history"] for row in await store.fetch(VIEW)}
    assert found == {row.id: row.chat_history for talk in talks for row in talk}


async def test_the_training_view_reads_through(store):
    rows = conversation(rounds=2)
    await store.write(rows)
    found = await store.fetch("SELECT input_context FROM agent_training ORDER BY created_at, id")
    assert found[-1]["input_context"] == {
        "system": "You are an agent.",
        "messages": rows[-1].chat_history,
        "tools": rows[-1].request_params["tools"],
    }
