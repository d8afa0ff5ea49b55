"""Reports of orchestrators and feedback, from the request to the rows."""

import json
from datetime import UTC, datetime
from uuid import UUID

import aiohttp
import pytest

from proxy.enrich.digests import Digests
from proxy.exchange import AnswerHead, End, Outcome, Start
from proxy.linker import Linker
from proxy.resubmit import resubmit
from proxy.store.embedded import EmbeddedServer
from proxy.store.links import LinkStore
from proxy.turn import turn_id
from proxy.wire.tap import mint_id
from tests.e2e.pipeline import Pipeline
from tests.e2e.provider import Provider
from tests.e2e.stack import Stack, until

EARLY, LATER = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
TURNS = "SELECT * FROM agent_telemetry WHERE record_type = 'turn_summary' ORDER BY created_at"
FEEDBACK = "SELECT * FROM agent_feedback ORDER BY created_at, id"
KEY = "sk-proj-Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MDEyMzQ1Njc4OTA"
CALL = {"model": "scripted-1", "messages": [{"role": "user", "content": "look it up"}]}


async def post(url: str, path: str, body: dict, **headers: str) -> dict:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}{path}", json=body, headers=headers) as answer,
    ):
        assert answer.status in (200, 202), await answer.text()
        return await answer.json()


async def call(url: str, text: str = "look it up", **headers: str) -> UUID:
    """A model call whose answer calls the tool `note`; returns the row's id."""
    body = CALL | {"messages": [{"role": "user", "content": text}]}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/openai/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        await answer.read()
        return UUID(answer.headers["x-agent-telemetry-id"])


async def report(url: str, body: dict, **headers: str) -> UUID:
    return UUID((await post(url, "/telemetry/v1/turns", body, **headers))["report_id"])


async def feedback(url: str, body: dict) -> UUID:
    return UUID((await post(url, "/telemetry/v1/feedback", body))["report_id"])


async def settled(stand: Pipeline, dsn: str, now=LATER) -> list[dict]:
    """The turns once everything is read and linked."""
    async with stand.recording():
        await stand.until_settled()
    async with LinkStore(dsn) as links:
        await Linker(stand.config, links, None).settle(now)
    return await stand.store.fetch(TURNS)


SAID = {
    "stop_reason": "round_cap",
    "rounds": 12,
    "tool_call_count": 11,
    "turn_intent": "buy",
    "chat_mode": "agent",
    "user_message": "what was typed",
    "labels": {"team": "a"},
}


@pytest.mark.parametrize("is_early", [False, True], ids=["after the calls", "before the calls"])
@pytest.mark.parametrize("label", [None, "turn seven", "018f2f2e-7a5c-7cc1-9d3a-1f2a3b4c5d6e"])
async def test_what_is_reported_wins_and_the_rest_stays_inferred(stand, dsn, is_early, label):
    body = {"session_id": "s", "project_id": "shop", **SAID}
    body |= {"turn_id": label} if label else {}
    named = {"x-telemetry-session": "s", "x-telemetry-project": "shop"}
    named |= {"x-telemetry-turn": label} if label else {}
    async with stand.serving():
        if is_early:
            id = await report(stand.address, body)
        row_id = await call(stand.address, **named)
        if not is_early:
            id = await report(stand.address, body)
    (turn,) = await settled(stand, dsn)
    assert {name: turn[name] for name in SAID} == SAID
    assert turn["turn_id"] == (turn_id("shop", "s", label) if label else row_id)
    assert turn["tool_results"] is None
    assert [call["name"] for call in turn["tool_calls"]] == ["note"]
    assert (turn["prompt_tokens"], turn["completion_tokens"]) == (11, 7)
    capture = turn["capture"]
    assert (capture["rule"], capture["inferred"]["stop_reason"]) == ("reported", "abandoned")
    assert capture["reported"] == dict.fromkeys(SAID, str(id))
    assert capture["evidence"] == [str(row_id)]


async def test_what_is_not_reported_stays_inferred_and_a_later_report_wins(stand, dsn):
    async with stand.serving():
        await call(stand.address, **{"x-telemetry-session": "s", "x-telemetry-label-team": "b"})
        await report(stand.address, {"session_id": "s", "chat_mode": "ask", "labels": {"x": 1}})
        await report(stand.address, {"session_id": "s", "chat_mode": "agent"})
    (turn,) = await settled(stand, dsn)
    assert (turn["chat_mode"], turn["turn_intent"]) == ("agent", "action")
    assert (turn["stop_reason"], turn["rounds"], turn["tool_call_count"]) == ("abandoned", 1, 1)
    assert turn["labels"] == {"team": "b", "x": 1}


async def test_a_reported_end_is_written_at_once_and_results_have_the_columns_form(stand, dsn):
    results = [{"id": "call_x", "is_error": True, "output": "x" * 5000}, {"output": {"n": 1}}]
    async with stand.serving():
        await call(stand.address, **{"x-telemetry-session": "s"})
        body = {"session_id": "s", "stop_reason": "done", "tool_results": results}
        await report(stand.address, body)
    rows = await stand.rows()
    (turn,) = await settled(stand, dsn, now=EARLY)
    assert rows == []
    assert turn["stop_reason"] == "done"
    first, second = turn["tool_results"]
    assert set(first) == {"id", "name", "round", "is_error", "output", "latency_ms"}
    assert first["output"] == "x" * 4096 + "… (904 more characters)"
    assert (second["is_error"], second["output"]) == (False, {"n": 1})


async def test_a_report_without_a_turn_goes_to_the_latest_turn_that_began_before_it(stand, dsn):
    named = {"x-telemetry-session": "s"}
    async with stand.serving():
        await call(stand.address, "one", **named, **{"x-telemetry-turn": "1"})
        await report(stand.address, {"session_id": "s", "stop_reason": "first"})
        await call(stand.address, "two", **named, **{"x-telemetry-turn": "2"})
        await report(stand.address, {"session_id": "other", "stop_reason": "elsewhere"})
        await report(stand.address, {"session_id": "s", "project_id": "p", "stop_reason": "no"})
    turns = await settled(stand, dsn)
    assert [turn["stop_reason"] for turn in turns] == ["first", "abandoned"]


@pytest.mark.parametrize("names_turn", [False, True], ids=["the session", "the turn"])
async def test_an_inferred_conversation_is_named_by_the_id_of_its_first_call(
    stand, dsn, names_turn
):
    async with stand.serving():
        row_id = str(await call(stand.address))
    assert [turn["stop_reason"] for turn in await settled(stand, dsn)] == ["abandoned"]
    body = {"session_id": "as the orchestrator calls it", "turn_id": row_id}
    async with stand.serving():
        said = body if names_turn else {"session_id": row_id}
        await report(stand.address, said | {"stop_reason": "done"})
    assert [turn["stop_reason"] for turn in await settled(stand, dsn)] == ["done"]


async def test_secrets_in_reports_never_reach_the_tables(stand, dsn):
    secrets = {"user_message": f"my key is {KEY}", "labels": {"k": KEY}, "turn_intent": KEY}
    results = [{"id": "1", "name": "env", "output": f"OPENAI_API_KEY={KEY}"}]
    async with stand.serving():
        await call(stand.address, **{"x-telemetry-session": "s"})
        await report(stand.address, {"session_id": "s", "tool_results": results, **secrets})
        body = {"session_id": "s", "name": "thumbs", "value": KEY, "comment": f"see {KEY}"}
        await feedback(stand.address, body)
        own = "an-orchestrators-own-credential-1234"
        sent = {"session_id": "s", "chat_mode": f"with {own}"}
        await report(stand.address, sent, authorization=f"Bearer {own}")
    (turn,) = await settled(stand, dsn)
    for table in ("agent_telemetry", "agent_reports", "agent_feedback", "agent_raw"):
        text = repr(await stand.store.fetch(f"SELECT * FROM {table}"))
        assert KEY not in text
        assert own not in text
    assert turn["user_message"].startswith("my key is [REDACTED:")
    assert turn["tool_results"][0]["output"].startswith("OPENAI_API_KEY=[REDACTED:")
    assert turn["chat_mode"] == "with [REDACTED:credential]"


async def test_sessions_that_are_named_by_secrets_stay_apart(stand, dsn):
    named = [f"{KEY}{number}" for number in range(2)]
    async with stand.serving():
        for session in named:
            await call(stand.address, **{"x-telemetry-session": session})
        turn = {"session_id": named[0], "turn_id": named[1]}  # a label that no call bears
        for said in ({"session_id": named[1], "stop_reason": "two"}, turn | {"stop_reason": "?"}):
            await report(stand.address, said)
    one, two = await settled(stand, dsn)
    assert (one["stop_reason"], two["stop_reason"]) == ("abandoned", "two")
    assert one["session_id"] != two["session_id"]
    assert KEY not in repr(await stand.store.fetch("SELECT * FROM agent_telemetry"))


async def test_where_only_metadata_may_be_kept_a_report_brings_no_content(stand, dsn):
    results = [{"id": "1", "name": "read", "output": "a secret place"}]
    said = {"session_id": "s", "user_message": "a secret place", "tool_results": results}
    async with stand.serving():
        await call(stand.address, **{"x-telemetry-session": "s"})
        await report(stand.address, said | {"rounds": 3}, **{"x-telemetry-record": "metadata"})
    (turn,) = await settled(stand, dsn)
    assert turn["rounds"] == 3
    assert turn["user_message"] == "look it up"
    assert (turn["tool_results"][0]["name"], turn["tool_results"][0]["output"]) == ("read", None)
    assert "a secret place" not in repr(await stand.store.fetch("SELECT * FROM agent_reports"))


async def test_feedback_is_kept_for_calls_turns_and_sessions(stand, dsn):
    async with stand.serving():
        row_id = await call(stand.address, **{"x-telemetry-session": "s", "x-telemetry-turn": "1"})
        common = {"name": "thumbs", "comment": "so so"}
        ids = [
            await feedback(stand.address, common | {"call_id": str(row_id), "value": "up"}),
            await feedback(stand.address, common | {"session_id": "s", "turn_id": "1", "value": 1}),
            await feedback(stand.address, common | {"session_id": "s", "value": {"a": [None]}}),
        ]
    await settled(stand, dsn)
    rows = await stand.store.fetch(FEEDBACK)
    assert [row["id"] for row in rows] == ids
    assert [row["value"] for row in rows] == ["up", 1, {"a": [None]}]
    assert [row["comment"] for row in rows] == ["so so"] * 3
    about = [(row["call_id"], row["turn_id"], row["session_id"]) for row in rows]
    turn = turn_id(None, "s", "1")
    assert about == [(row_id, None, None), (None, turn, "s"), (None, None, "s")]
    found = await stand.store.fetch("SELECT turn_id FROM agent_telemetry WHERE id = $1", row_id)
    assert found == [{"turn_id": turn}]


async def test_each_report_is_one_captured_call_and_poison_is_set_aside(stand, dsn):
    async with stand.serving() as writer:
        await call(stand.address, **{"x-telemetry-session": "s"})
        await report(stand.address, {"session_id": "s", "stop_reason": "done"})
        await feedback(stand.address, {"session_id": "s", "name": "n", "value": 1})
        bad = [write(writer, data) for data in (b"{", b"[1]", b'{"session_id": 7}', b"\xff\0")]
        unfinished = write(writer, b'{"session_id": "s", "ro', is_whole=False)
    (turn,) = await settled(stand, dsn)
    assert turn["stop_reason"] == "done"
    sums = await stand.whole_sums()
    assert (sums.captured, sums.stored, sums.quarantined, sums.waiting) == (8, 3, 5, 0)
    rows = await stand.store.fetch("SELECT id, reason FROM agent_raw")
    reasons = {row["id"]: row["reason"] for row in rows}
    assert reasons == {
        bad[0]: "report refused: body",
        bad[1]: "report refused: body",
        bad[2]: "report refused: session_id",
        bad[3]: "report refused: body",
        unfinished: "the report is not whole",
    }


async def test_a_report_that_the_database_refuses_is_set_aside_and_can_be_tried_again(stand, dsn):
    refuse = "ALTER TABLE agent_reports ADD CONSTRAINT own CHECK (report ->> 'stop_reason' <> 'x')"
    await stand.store.execute(refuse)
    async with stand.serving():
        await call(stand.address, **{"x-telemetry-session": "s"})
        await report(stand.address, {"session_id": "s", "stop_reason": "x"})
        await report(stand.address, {"session_id": "s", "chat_mode": "ask"})
    (turn,) = await settled(stand, dsn)
    assert (turn["stop_reason"], turn["chat_mode"]) == ("abandoned", "ask")
    assert (await stand.whole_sums()).quarantined == 1
    await stand.store.execute("ALTER TABLE agent_reports DROP CONSTRAINT own")
    done = await resubmit(stand.config, stand.store, lambda: None, Digests(b"key"))
    assert (done.stored, dict(done.refused)) == (1, {})
    assert (await settled(stand, dsn))[0]["stop_reason"] == "x"


def write(writer, body: bytes, *, is_whole: bool = True) -> UUID:
    """A report as no gateway would write it."""
    at_ns = 1_800_000_000 * 10**9
    id = mint_id(at_ns)
    writer.start(Start(id, at_ns, "telemetry", "telemetry", "report.turns", "POST", "/telemetry"))
    writer.request(id, 1, body)
    if is_whole:
        writer.head(id, AnswerHead(2, 202))
        writer.end(id, End(3, Outcome.COMPLETE, request_kept=len(body)))
    return id


async def test_reports_survive_an_outage_of_the_database_and_kill_9(tmp_path):
    """Reports taken while nothing else works are applied once it works again."""
    server = EmbeddedServer(tmp_path / "postgres")
    dsn = server.start()
    turns = {f"s{n}": f"reported {n}" for n in range(6)}
    try:
        async with (
            Provider(0).serving() as upstream,
            Stack(tmp_path / "data", upstream, STORE__DSN=dsn, TURNS__IDLE_S="3600") as stack,
        ):
            await stack.until_ready()
            server.stop()
            for number, (session, reason) in enumerate(turns.items()):
                named = {"x-telemetry-session": session}
                if number % 2:
                    await call(stack.url, **named)
                await report(stack.url, {"session_id": session, "stop_reason": reason})
                body = {"session_id": session, "name": "score", "value": number}
                await feedback(stack.url, body)
                await stack.kill("gateway" if number % 3 else "recorder")
                await until(stack.is_serving, "the gateway answers again")
                if number % 2 == 0:
                    await call(stack.url, **named)
            server.start()
            await stack.until_ready()

            async def applied() -> bool:
                rows = await stack.fetch(TURNS)
                return {row["session_id"]: row["stop_reason"] for row in rows} == turns

            await until(applied, "every report is applied")

            async def kept() -> bool:
                return len(await stack.fetch(FEEDBACK)) == len(turns)

            await until(kept, "all feedback is kept")
            values = [json.loads(row["value"]) for row in await stack.fetch(FEEDBACK)]
            assert values == list(range(len(turns)))
    finally:
        server.stop()
