"""The linker over a real database: the same result whatever the order, the batches, the moments."""

import asyncio
import json
import random
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.enrich.facts import link_of
from proxy.enrich.threads import place
from proxy.environment import load
from proxy.linker import Linker
from proxy.record import Beside
from proxy.report import TurnReport
from proxy.store import link_step
from proxy.store.links import LinkStore
from proxy.store.postgres import Store
from proxy.store.reported import write_report
from tests.database import connected, fetched
from tests.turns.scripts import BEGIN, DIGESTS, LATER, Talk, judged

CONFIG = load(None, {"HOME": "/"})
TABLES = "agent_telemetry, agent_links, agent_link_keys, agent_reports"
CALLS = """
SELECT id, session_id, turn_id, round, parent_id, capture -> 'link' ->> 'kind' AS kind
FROM agent_telemetry WHERE record_type = 'llm_call' ORDER BY id
"""
SUMMARIES = """
SELECT * FROM agent_telemetry WHERE record_type = 'turn_summary' ORDER BY created_at, id
"""

KEYS = "SELECT key, is_wanted, call_id FROM agent_link_keys ORDER BY key, is_wanted, call_id"


def conversations() -> list[Talk]:
    """Conversations of every kind, interleaved, several with the same opening words."""
    talks = []
    for number in range(3):
        talk = Talk(has_ids=number > 0).wait(number / 7).user("hello").call(f"hello {number % 2}")
        talk.user("go on").call("hm", [("read", {"p": 1})]).results(f"ok {number}").call("done")
        talks.append(talk)
    retried = Talk().wait(3).user("try").call(None, outcome="upstream_error").call("hm", [("x", 1)])
    talks.append(retried.results("Error: no").call(None))
    main = Talk("s").wait(1).user("go").call("hm", [("agent", {"prompt": "count all the words"})])
    child = Talk("s", at=main.at).user("count all the words").call("hm", [("read", {})])
    child.results("ok").call("12 words")
    talks += [main.wait(9).results("12 words").call("there are 12"), child]
    talks.append(Talk("s", at=BEGIN).user("Name this").call("Going", request_params={}))
    forked = Talk().wait(5).user("one").call("fine")
    talks += [forked.branch().wait(9).user("three").call("yes"), forked.user("two").call("no")]
    talks.append(Talk("t").user("wait").call("hm", [("read", {})]).user("stop").call("stopped"))
    return talks


async def write(store, records):
    beside = {record.id: Beside(link=link_of(record, DIGESTS)) for record in records}
    await store.write(records, beside)


async def fetch(dsn, query):
    return [dict(row) for row in await fetched(dsn, query)]


async def emptied(dsn):
    async with connected(dsn) as connection:
        await connection.execute(f"TRUNCATE {TABLES}")


def reports():
    """What orchestrators say: of the latest turn at some moment, of named turns, of nothing."""
    said = (
        (1, {"session_id": "s", "stop_reason": "one", "rounds": 7}),
        (6, {"session_id": "s", "stop_reason": "two"}),
        (30, {"session_id": "s", "chat_mode": "ask"}),
        (0, {"session_id": "t", "stop_reason": "early"}),
        (9, {"session_id": "t", "turn_id": "no such turn", "stop_reason": "never"}),
        (9, {"session_id": "nobody", "stop_reason": "never"}),
    )
    return [
        (UUID(int=number), BEGIN + timedelta(seconds=at), TurnReport(**body))
        for number, (at, body) in enumerate(said, 1)
    ]


async def linked(dsn, records, chance, reported=(), *, restarts=True):
    """Write and link in the order and batches that `chance` decides; then let time pass."""
    async with Store(dsn) as store, LinkStore(dsn) as links:
        left, unsaid = list(records), list(reported)
        while left or unsaid:
            for _ in range(chance.randint(0, len(unsaid)) if left else len(unsaid)):
                await write_report(store, *unsaid.pop())
            size = chance.randint(min(1, len(left)), len(left))
            await write(store, left[:size])
            del left[:size]
            for _ in range(chance.randint(0, 3)):
                if restarts and chance.random() < 0.3:
                    await links.close()  # what is asked next opens another
                now = chance.choice([BEGIN, BEGIN + timedelta(seconds=700), LATER])
                await Linker(CONFIG, links, None).step(now, chance.randint(1, 5))
        await Linker(CONFIG, links, None).settle(LATER)
    return await fetch(dsn, CALLS), await fetch(dsn, SUMMARIES)


@pytest.mark.parametrize("calls_max", [1, 3])
async def test_a_call_that_is_seen_early_is_found_by_its_keys_later(dsn, calls_max):
    """A step that meets calls of a session before it is their turn leaves them to a later one."""
    records = sorted(
        (record for talk in conversations() for record in talk.records),
        key=lambda record: record.created_at,
    )
    kept = []
    for size in (calls_max, len(records)):
        await emptied(dsn)
        async with Store(dsn) as store, LinkStore(dsn) as links:
            await write(store, records)
            while not (await Linker(CONFIG, links, None).step(LATER, size)).is_idle:
                pass
            kept.append(await fetch(dsn, KEYS))
    assert kept[0] == kept[1]


async def test_an_idle_turn_behind_the_calls_that_are_looked_at_is_not_asked_for_for_ever(
    monkeypatch, store, links
):
    looked_at = link_step._AROUND.replace(f"LIMIT {link_step.CALLS_MAX}", "LIMIT 3")
    assert looked_at != link_step._AROUND
    monkeypatch.setattr(link_step, "_AROUND", looked_at)
    await write(store, Talk("s").user("go").call("hm", [("read", {"p": 1})]).records)
    linker = Linker(CONFIG, links, None)
    await linker.settle(BEGIN)
    later = Talk("s").wait(30)
    for number in range(5):
        later.user(f"question {number}").call("answer")
    await write(store, later.records)
    steps = [(await linker.step(LATER)).is_idle for _ in range(3)]
    assert steps == [False, True, True]


@pytest.fixture(scope="module")
def shared_dsn(postgres, template):
    """One database for all examples of a property."""
    name = "test_linker"

    async def run(statement):
        async with connected(postgres) as connection:
            await connection.execute(statement)

    asyncio.run(run(f"CREATE DATABASE {name} TEMPLATE {template}"))
    path, _, query = postgres.partition("?")
    yield f"{path.rpartition('/')[0]}/{name}?{query}"
    asyncio.run(run(f"DROP DATABASE {name} WITH (FORCE)"))


@settings(max_examples=12)
@given(st.randoms(use_true_random=False))
def test_any_order_of_commits_and_any_batches_give_the_same_rows(shared_dsn, chance):
    """Invariant: what is judged depends on the calls, not on when which of them was stored."""

    async def run():
        talks = conversations()
        records = [record for talk in talks for record in talk.records]
        await emptied(shared_dsn)
        in_order = sorted(records, key=lambda record: record.created_at)
        said = reports()
        calls, summaries = await linked(
            shared_dsn, in_order, random.Random(0), said, restarts=False
        )
        await emptied(shared_dsn)
        chance.shuffle(records)
        chance.shuffle(said)
        other_calls, other_summaries = await linked(shared_dsn, records, chance, said)
        assert other_calls == calls
        assert other_summaries == summaries
        reference = judged(*talks)
        inferred = [
            json.loads(row["capture"]).get("inferred", row)["stop_reason"] for row in summaries
        ]
        assert sorted(inferred) == sorted(reference.reasons)
        words = {row["stop_reason"] for row in summaries} - set(inferred)
        assert {"early"} <= words <= {"early", "one", "two"}
        assert {row["id"]: row["turn_id"] for row in calls} == {
            id: where.turn for id, where in reference.placements.items()
        }

    asyncio.run(run())


async def test_a_turn_that_goes_on_has_one_row_that_is_rewritten(dsn, store, links):
    talk = Talk("s").user("one").call("done")
    await write(store, talk.records)
    linker = Linker(CONFIG, links, None)
    assert [r.stop_reason for _, r in (await linker.settle(BEGIN)).turns] == ["completed"]
    first = await fetch(dsn, SUMMARIES)
    talk.user("Continue from where you left off.").call("and more", [("read", {"p": 1})])
    talk.results("found").call("all of it")
    await write(store, talk.records[1:])
    await linker.settle(BEGIN)
    (row,) = await fetch(dsn, SUMMARIES)
    assert row["id"] == first[0]["id"]
    assert (row["rounds"], row["tool_call_count"], row["response_text"]) == (3, 1, "all of it")
    assert (row["prompt_tokens"], row["completion_tokens"], row["total_tokens"]) == (30, 6, 36)
    assert row["turn_intent"] == "action"


async def test_a_summary_holds_what_came_back_from_the_tools(dsn):
    talk = Talk("s").user("one").call("hm", [("read", {"p": 1}), ("grep", {"q": "x"})])
    talk.wait(4).results("line", "Error: bad pattern").call("done")
    _, (row,) = await linked(dsn, talk.records, random.Random(1))
    results = json.loads(row["tool_results"])
    assert [(r["name"], r["round"], r["is_error"], r["output"]) for r in results] == [
        ("read", 1, False, "line"),
        ("grep", 1, True, "Error: bad pattern"),
    ]
    assert [r["latency_ms"] for r in results] == [5000, 5000]
    assert [c["round"] for c in json.loads(row["tool_calls"])] == [1, 1]
    assert row["created_at"] == talk.records[-1].created_at + timedelta(seconds=1, microseconds=1)


async def test_results_whose_ids_begin_anew_in_each_round_are_all_kept(dsn):
    talk = Talk("s", only_id="call_0").user("one")
    for name in ("read", "grep", "read"):
        talk.call("hm", [(name, {"for": name})]).results(f"found by {name}")
    _, (row,) = await linked(dsn, talk.call("done").records, random.Random(2))
    results = json.loads(row["tool_results"])
    assert [(r["id"], r["name"], r["round"], r["output"]) for r in results] == [
        ("call_0", "read", 1, "found by read"),
        ("call_0", "grep", 2, "found by grep"),
        ("call_0", "read", 3, "found by read"),
    ]


async def test_results_without_ids_are_kept_once_however_often_they_were_sent(dsn):
    talk = Talk("s", has_ids=False).user("one").call("hm", [("read", {}), ("grep", {})])
    talk.results("line", "Error: bad pattern")
    talk.call(None, outcome="upstream_error").call(None, outcome="upstream_error").call("done")
    _, (row,) = await linked(dsn, talk.records, random.Random(4))
    results = json.loads(row["tool_results"])
    assert [(r["round"], r["output"]) for r in results] == [(1, "line"), (1, "Error: bad pattern")]
    assert [r["latency_ms"] for r in results] == [1000, 1000]


async def test_results_that_come_with_the_next_message_belong_to_the_turn_that_called(dsn):
    talk = Talk("s").user("one").call("hm", [("read", {}), ("grep", {})])
    talk.wait(2).results("line", "Error: cancelled").user("stop it").call("done")
    _, (first, second) = await linked(dsn, talk.records, random.Random(5))
    assert first["stop_reason"] == "user_aborted"
    results = json.loads(first["tool_results"])
    assert [(r["name"], r["round"], r["output"], r["latency_ms"]) for r in results] == [
        ("read", 1, "line", 3000),
        ("grep", 1, "Error: cancelled", 3000),
    ]
    assert second["tool_results"] is None


async def test_a_row_of_a_socket_keeps_the_socket_as_its_parent(dsn, links):
    socket = UUID(int=7)
    talk = Talk("s").user("one").call("hm", [("read", {})]).results("ok")
    talk.call("done", parent_id=socket).user("two").call("fine")
    calls, _ = await linked(dsn, talk.records, random.Random(3))
    first, second, _ = (record.id for record in talk.records)
    assert [row["parent_id"] for row in calls] == [None, socket, second]
    await links.judge_again(BEGIN)
    await Linker(CONFIG, links, None).settle(LATER)
    query = "SELECT capture #>> '{link,parent}' AS parent FROM agent_telemetry WHERE id = '%s'"
    assert await fetch(dsn, query % second) == [{"parent": str(first)}]
    assert await fetch(dsn, CALLS) == calls


async def test_only_one_linker_works_at_a_time(dsn):
    async with LinkStore(dsn) as one, LinkStore(dsn) as other:
        async with one.step() as mine, other.step() as theirs:
            assert mine is not None
            assert theirs is None
        async with other.step() as theirs:
            assert theirs is not None


async def test_a_step_that_fails_changes_nothing_and_is_done_again(store, links):
    await write(store, Talk("s").user("one").call("done").records)

    async def fail():
        async with links.step() as step:
            (call,) = await step.pending(5)
            await step.place({call.id: (call, place([call]).placements[call.id])}, {})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert (await Linker(CONFIG, links, None).settle(BEGIN)).calls == 1
    assert (await Linker(CONFIG, links, None).settle(BEGIN)).calls == 0


async def test_a_conversation_that_cannot_be_written_does_not_hold_up_the_others(
    dsn, store, links, connection
):
    await connection.execute(
        "ALTER TABLE agent_telemetry ADD CHECK (record_type = 'llm_call' OR session_id <> 'bad')"
    )
    talks = [Talk(name).user("one").call("done") for name in ("a", "bad", "c")]
    await write(store, [record for talk in talks for record in talk.records])
    work = asyncio.create_task(Linker(CONFIG, links, None).run())
    async with asyncio.timeout(20):
        while await links_left(connection):
            await asyncio.sleep(0.05)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert {row["session_id"] for row in await fetch(dsn, SUMMARIES)} == {"a", "c"}


async def links_left(connection):
    return await connection.fetchval("SELECT count(*) FROM agent_links WHERE is_pending")


async def test_calls_are_judged_again_on_request(dsn, connection, links):
    talk = Talk("s").user("one").call("done")
    await linked(dsn, talk.records, random.Random(2))
    await connection.execute("UPDATE agent_links SET placement = placement || '{\"version\": 0}'")
    await links.judge_again(BEGIN)
    changes = await Linker(CONFIG, links, None).settle(LATER)
    assert (changes.calls, len(changes.turns)) == (1, 1)
    assert len(await fetch(dsn, SUMMARIES)) == 1


async def test_four_linkers_at_once_do_no_more_than_one(dsn, store):
    records = [record for talk in conversations() for record in talk.records]
    await write(store, records)

    async def work():
        async with LinkStore(dsn) as links:
            for _ in range(40):
                await Linker(CONFIG, links, None).step(LATER, 2)
                await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(4)))
    async with LinkStore(dsn) as links:
        await Linker(CONFIG, links, None).settle(LATER)
    summaries = await fetch(dsn, SUMMARIES)
    reasons = [row["stop_reason"] for row in summaries]
    ids = {record.id for record in records}
    assert len(reasons) == len({row["turn_id"] for row in summaries})
    assert {row["turn_id"] for row in summaries} <= ids
