"""Batches reach the table whole, once, and without the rows that PostgreSQL refuses."""

import asyncio
import json
import math
from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from proxy.enrich.digests import Digests
from proxy.enrich.facts import link_of
from proxy.record import COLUMNS, DAMAGED, Beside
from proxy.store.postgres import Store
from tests.store.rows import NOW, POISON, record


async def stored(store, *columns):
    names = ", ".join(columns) or "*"
    return await store.fetch(f"SELECT {names} FROM agent_telemetry ORDER BY created_at, id")


async def test_every_column_comes_back_as_it_was_given(store):
    given_record = record(
        record_type="llm_call",
        system_prompt="be brief",
        chat_history=[{"role": "user", "content": [{"n": 10**300, "f": 0.1, "z": None}]}],
        project_id="shop",
        session_id="thread-42",
        response_thoughts="hm",
        tool_calls=[{"id": "a", "name": "grep", "arguments": {"q": "x"}}],
        tool_results=[{"id": "a", "output": "y"}],
        stop_reason="completed",
        rounds=2,
        tool_call_count=1,
        turn_intent="action",
        chat_mode="agent",
        prompt_tokens=10,
        completion_tokens=20,
        total_tokens=30,
        turn_id=uuid4(),
        round=1,
        provider="openai",
        endpoint="responses",
        streamed=True,
        status=200,
        error="none",
        finish_reason="stop",
        request_params={"tools": []},
        usage={"input": 10},
        usage_source="provider",
        cached_tokens=1,
        cache_write_tokens=2,
        reasoning_tokens=3,
        cost_usd=Decimal("0.0000125"),
        ttft_ms=12,
        provider_request_id="req_1",
        client="sdk/1",
        parent_id=uuid4(),
        labels={"env": "test"},
        capture={"request_bytes": 5},
    )
    assert all(value is not None for value in given_record.as_row().values())
    result = await store.write([given_record])
    assert (result.written, dict(result.rejected)) == (1, {})
    (row,) = await stored(store, *COLUMNS)
    assert row == given_record.as_row()


async def test_a_batch_written_twice_is_there_once(store):
    batch = [record() for _ in range(30)]
    assert (await store.write(batch)).written == 30
    assert (await store.write(batch)).written == 0
    changed = [replace(row, response_text="other") for row in batch]
    assert (await store.write(changed)).written == 0
    assert {row["response_text"] for row in await stored(store)} == {"hi"}


async def test_an_empty_batch_needs_no_transaction(store):
    assert (await store.write([])).written == 0


CRASHED = {"outcome": "proxy_crashed", "response_text": "be"}
WHOLE = {"outcome": "complete", "response_text": "whole"}
OTHER = {"outcome": "upstream_reset", "response_text": "other"}


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_a_crash_is_replaced_once_by_the_true_outcome(store, in_one_batch):
    for order, kept in [
        ((CRASHED, WHOLE), "whole"),
        ((WHOLE, CRASHED), "whole"),
        ((CRASHED, WHOLE, OTHER), "whole"),
        ((CRASHED, CRASHED), "be"),
        ((CRASHED, OTHER, CRASHED, WHOLE), "other"),
        ((WHOLE, OTHER), "whole"),
    ]:
        same = uuid4()
        batch = [record(id=same, **values) for values in order]
        for records in [batch] if in_one_batch else [[row] for row in batch]:
            await store.write(records)
        (row,) = await store.fetch("SELECT * FROM agent_telemetry WHERE id = $1", same)
        assert row["response_text"] == kept, order


async def test_replacing_a_crash_keeps_what_the_linker_found_out(store):
    crashed = record(**CRASHED)
    await store.write([crashed])
    turn = uuid4()
    await store.fetch("UPDATE agent_telemetry SET turn_id = $1, round = 3 RETURNING id", turn)
    await store.write([replace(crashed, **WHOLE)])
    (row,) = await stored(store)
    assert (row["turn_id"], row["round"], row["response_text"]) == (turn, 3, "whole")


async def test_a_turn_that_goes_on_is_written_again(store):
    turn = record(record_type="turn_summary", rounds=1, stop_reason="abandoned", outcome=None)
    on = replace(turn, rounds=2, stop_reason="completed")
    assert (await store.write([turn])).written == 1
    assert (await store.write([turn, on])).written == 1
    (row,) = await stored(store)
    assert (row["rounds"], row["stop_reason"]) == (2, "completed")


async def test_poison_in_any_position_of_a_batch_costs_no_other_row(store):
    assert len(POISON) >= 200
    for start in range(0, len(POISON), 5):
        batch = [record() for _ in range(10)]
        for position, values in enumerate(POISON[start : start + 5]):
            batch.insert((start * 3 + position * 7) % len(batch), record(**values))
        result = await store.write(batch)
        assert (result.written, dict(result.rejected)) == (len(batch), {}), start
    (counted,) = await store.fetch("SELECT count(*) AS rows FROM agent_telemetry")
    assert counted["rows"] == len(POISON) + 10 * len(range(0, len(POISON), 5))


@pytest.fixture
async def picky(store):
    """A store whose table refuses two kinds of rows by constraints of the operator's own."""
    await store.fetch(
        "ALTER TABLE agent_telemetry "
        "ADD CONSTRAINT picky CHECK (response_text IS DISTINCT FROM 'refused'), "
        "ADD CONSTRAINT pickier CHECK (client IS DISTINCT FROM 'refused' OR provider IS NULL), "
        "ADD CONSTRAINT pickiest CHECK (provider IS DISTINCT FROM 'refused')"
    )
    return store


async def test_a_refused_row_is_isolated_in_any_position(picky):
    total = 0
    for position in range(9):
        batch = [record() for _ in range(9)]
        batch[position] = replace(batch[position], response_text="refused")
        result = await picky.write(batch)
        assert dict(result.rejected) == {batch[position].id: "23514"}
        assert result.written == 9
        total += 9
        assert len(await stored(picky)) == total


async def test_a_refused_row_leaves_a_stub_without_content(picky):
    refused = record(response_text="refused", session_id="s", status=200, capture={"x": 1})
    await picky.write([record(), refused])
    (stub,) = [row for row in await stored(picky) if row["id"] == refused.id]
    assert (stub["session_id"], stub["status"], stub["outcome"]) == ("s", 200, "complete")
    assert (stub["chat_history"], stub["response_text"]) == ([], None)
    assert stub["capture"] == {"rejected": "23514"}


async def test_a_stub_gives_way_to_the_row_it_stands_for(picky):
    refused = record(response_text="refused")
    await picky.write([refused])
    await picky.write([replace(refused, **CRASHED)])
    assert [row["response_text"] for row in await stored(picky)] == [None]
    assert (await picky.write([replace(refused, response_text="fine")])).written == 1
    assert (await picky.write([refused])).written == 0  # a stub again is no row's replacement
    assert [row["response_text"] for row in await stored(picky)] == ["fine"]


PART = {"response_text": "pa", "capture": {"problems": [DAMAGED]}}


async def test_a_part_that_is_delivered_again_replaces_nothing_whole(picky):
    """As after a disk too full for the recorder's journal, and the recorder's death."""
    whole, refused, crashed = record(), record(response_text="refused"), record(**CRASHED)
    await picky.write([whole, refused, crashed])
    again = [replace(row, **PART, outcome="complete") for row in (whole, refused, crashed)]
    assert (await picky.write(again)).written == 1
    found = {row["id"]: row["response_text"] for row in await stored(picky)}
    assert found == {whole.id: "hi", refused.id: None, crashed.id: "pa"}
    assert (await picky.write([replace(refused, response_text="fine")])).written == 1


async def test_a_row_of_which_not_even_a_stub_is_taken_is_only_reported(picky):
    batch = [record(), record(provider="refused"), record()]
    result = await picky.write(batch)
    assert dict(result.rejected) == {batch[1].id: "23514"}
    assert {row["id"] for row in await stored(picky)} == {batch[0].id, batch[2].id}


async def test_many_refused_rows_are_all_found(picky):
    batch = [record(response_text="refused" if n % 3 else "fine") for n in range(40)]
    result = await picky.write(batch)
    assert set(result.rejected) == {row.id for row in batch if row.response_text == "refused"}
    assert len(await stored(picky)) == 40


async def test_a_quarantined_exchange_is_kept_as_it_was(store):
    key = uuid4()
    await store.quarantine(key, NOW, "sqlstate 22P05", b"\0\xff raw")
    await store.quarantine(key, NOW, "sqlstate 54000", b"\0\xff raw, again")
    await store.quarantine(key, NOW, "sqlstate 23514", b"a part of it")
    found = await store.fetch("SELECT id, created_at, reason, exchange FROM agent_raw")
    assert found == [
        {
            "id": key,
            "created_at": NOW,
            "reason": "sqlstate 54000",
            "exchange": b"\0\xff raw, again",
        }
    ]


async def test_stores_write_the_same_batches_at_once(dsn, store):
    batches = [[record() for _ in range(20)] for _ in range(10)]
    written = await asyncio.gather(*(write_all(dsn, batches[:: 1 if n else -1]) for n in range(3)))
    assert sum(written) == 200
    assert len(await stored(store)) == 200


async def write_all(dsn, batches):
    async with Store(dsn) as store:
        return sum([(await store.write(batch)).written for batch in batches])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
TEXT = st.none() | st.text()
RECORDS = st.builds(
    record,
    created_at=st.datetimes(),
    chat_history=st.lists(JSON, max_size=3),
    usage=JSON,
    labels=JSON,
    capture=st.none() | st.dictionaries(st.text(), JSON, max_size=3),
    tool_calls=JSON,
    session_id=TEXT,
    project_id=TEXT,
    model_used=TEXT,
    response_text=TEXT,
    stop_reason=TEXT,
    error=TEXT,
    prompt_tokens=st.none() | st.integers() | st.floats(),
    duration_ms=st.none() | st.integers(),
    cost_usd=st.none() | st.decimals() | st.floats(),
)


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(RECORDS, max_size=8))
def test_any_value_in_gives_a_row_in_the_table(dsn, batch):
    """Every record of every batch is stored, none is refused, and clean JSON is equal."""

    batch = [replace(row, id=uuid4()) for row in batch]  # one database for all examples
    rows = asyncio.run(written_and_read(dsn, batch))
    for given_record in batch:
        row = rows[given_record.id]
        if "sanitized" not in (row["capture"] or {}):
            assert is_equal(given_record.chat_history, row["chat_history"])


async def written_and_read(dsn, batch):
    async with Store(dsn) as store:
        result = await store.write(batch)
        assert dict(result.rejected) == {}
        return {row["id"]: row for row in await stored(store)}


def is_equal(one, other):
    """Equal as JSON values: a number's notation does not count (1e22 and 1 with 22 zeros)."""
    if isinstance(one, float) and isinstance(other, int | float):
        return one == float(other) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in one)
    return type(one) is type(other) and json.dumps(one) == json.dumps(other)


async def test_the_three_diagnostic_queries_run_as_they_stand(store, connection):
    await store.write(
        [
            record(
                record_type="turn_summary",
                outcome=None,
                session_id="<thread_id>",
                stop_reason=stop_reason,
                rounds=rounds,
                tool_call_count=2,
            )
            for stop_reason, rounds in [
                ("completed", 4),
                ("completed", 1),
                ("tool_failure", 2),
                ("abandoned", 7),
            ]
        ]
    )
    await store.write([record(session_id="<thread_id>"), record(session_id="other")])
    reasons = await connection.fetch(
        "SELECT stop_reason, COUNT(*), ROUND(AVG(rounds),1) AS avg_rounds FROM agent_telemetry\n"
        " WHERE record_type='turn_summary' GROUP BY stop_reason ORDER BY 2 DESC;"
    )
    assert tuple(reasons[0]) == ("completed", 2, Decimal("2.5"))
    early = await connection.fetch(
        "SELECT created_at, project_id, user_message, stop_reason, rounds, tool_call_count "
        "FROM agent_telemetry\n WHERE record_type='turn_summary' AND stop_reason <> 'completed' "
        "AND rounds < 3 ORDER BY created_at DESC;"
    )
    assert [row["stop_reason"] for row in early] == ["tool_failure"]
    thread = await connection.fetch(
        "SELECT created_at, record_type, response_text, tool_calls FROM agent_telemetry\n"
        " WHERE session_id = '<thread_id>' ORDER BY created_at ASC;"
    )
    assert len(thread) == 5


async def test_the_training_view_holds_each_complete_call(store):
    tools = [{"name": "grep"}]
    call = [{"id": "a", "name": "grep", "arguments": {}}]
    whole = record(
        system_prompt="be brief",
        request_params={"tools": tools, "temperature": 1},
        response_thoughts="hm",
        tool_calls=call,
        session_id="s",
    )
    plain = record(request_params=None, response_text="plain")
    await store.write(
        [
            whole,
            plain,
            record(outcome="client_disconnected"),
            record(outcome=None),
            record(record_type="turn_summary"),
            record(capture={"truncated": {"request": 5}}),
            record(capture={"content": "metadata"}),
        ]
    )
    rows = await store.fetch("SELECT * FROM agent_training")
    found = {row["id"]: row for row in rows}
    assert found.keys() == {whole.id, plain.id}
    assert found[whole.id]["session_id"] == "s"
    assert found[whole.id]["input_context"] == {
        "system": "be brief",
        "messages": whole.chat_history,
        "tools": tools,
    }
    assert found[whole.id]["target_output"] == {
        "text": "hi",
        "thoughts": "hm",
        "tool_calls": call,
    }
    assert found[plain.id]["input_context"]["tools"] == []
    assert found[plain.id]["target_output"] == {
        "text": "plain",
        "thoughts": None,
        "tool_calls": [],
    }


async def test_amending_a_row_waits_for_the_linker_before_it_holds_anything(store, dsn):
    """The linker locks what it knows of a call first and then its row: so does whoever amends."""
    given_record = record(session_id="s")
    link = link_of(given_record, Digests(b"a secret"))
    await store.write([given_record], {given_record.id: Beside(link=link)})
    linker = await asyncpg.connect(dsn)
    try:
        async with linker.transaction():
            await linker.execute("SELECT FROM agent_links FOR UPDATE")
            change = {"response_text": "late"}
            amending = asyncio.create_task(store.amend(given_record.id, change, Beside(link=link)))
            while not await linker.fetchval(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
            ):
                await asyncio.sleep(0)
            await linker.execute("UPDATE agent_telemetry SET round = 1")
        assert await amending
    finally:
        await linker.close()
    assert await stored(store, "response_text", "round") == [{"response_text": "late", "round": 1}]
