"""What people see of turns: replay, reports and lines, from rows of a real database."""

import asyncio
import json
import random

import asyncpg
import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.cli_read import REPORT_NAMES
from proxy.store.reports import OVERVIEW, REPORTS
from proxy.views import lines
from tests.turns.scripts import BEGIN, Talk
from tests.turns.test_linker import linked

SINCE = "2026-01-01"


def conversation() -> Talk:
    talk = Talk("thread-42").user("<system-reminder>x</system-reminder>", "count the words")
    talk.call(None, outcome="upstream_error", status=429, error="slow down", model_used="m-1")
    talk.call("let me look", [("read", {"path": "a.txt"})], response_thoughts="where are they?")
    talk.wait(4).results("one two three").call("there are 3", ttft_ms=300, cost_usd=0.5)
    return talk.user("sure?").call("hm", [("read", {"path": "b.txt"})]).user("stop it").call(None)


@pytest.fixture
async def run(dsn, monkeypatch):
    talks = [conversation(), Talk("thread-43").user("hi").call("hello", project_id="shop")]
    records = [record for talk in talks for record in talk.records]
    await linked(dsn, records, random.Random(0))
    monkeypatch.setenv("DATABASE_URL", dsn)

    def command(*arguments):
        result = CliRunner().invoke(main, arguments)
        return result.exit_code, result.output

    return command


async def in_thread(function, *arguments):
    """Commands start an event loop of their own."""
    return await asyncio.to_thread(function, *arguments)


async def test_a_replay_reads_like_the_conversation(run):
    code, text = await in_thread(run, "replay", "thread-42")
    assert code == 0
    assert all(len(line) <= 100 for line in text.splitlines())
    parts = [
        *("session thread-42", "3 turns, 5 calls", "Turn 1", "completed (final answer)"),
        *("user     count the words", "round 1", "failed   slow down", "round 1 (retry)"),
        *("thinks   where are they?", "says     let me look", 'calls    read {"path":"a.txt"}'),
        *("gets     one two three  [5.0s]", "round 2", "first 300ms", "says     there are 3"),
        *("Turn 2", "user_aborted (new message while tool calls were open)", "Turn 3"),
        *("empty_no_tools", "user     stop it"),
    ]
    at = 0
    for part in parts:
        assert part in text[at:], part
        at = text.index(part, at)


async def test_a_replay_cuts_long_texts_unless_all_is_asked_for(run, dsn):
    talk = Talk("long").user("go").call("word " * 2000)
    await linked(dsn, talk.records, random.Random(0))
    _, cut = await in_thread(run, "replay", "long")
    _, full = await in_thread(run, "replay", "long", "--full")
    assert "more lines" in cut
    assert full.count("word") == 2000


async def test_a_session_of_two_projects_is_two_conversations(run, dsn):
    talks = [Talk("same").user(text).call("yes", project_id=text) for text in ("one", "two")]
    await linked(dsn, [row for talk in talks for row in talk.records], random.Random(0))
    code, text = await in_thread(run, "replay", "same")
    assert code == 0
    heads = [line for line in text.splitlines() if line.startswith("session same")]
    assert ["project one  1 turn, 1 call" in line for line in heads] == [True, False]
    assert ["project two  1 turn, 1 call" in line for line in heads] == [False, True]
    assert text.count("Turn 1") == 2


async def test_a_name_that_its_column_cuts_is_known_as_it_was_given(run, dsn):
    session, project = "s" * 300, "p" * 300
    talk = Talk(session).user("hi").call("yes", project_id=project)
    await linked(dsn, talk.records, random.Random(0))
    named = ("--session", session, "--project", project)
    assert "hi" in (await in_thread(run, "replay", session, "--project", project))[1]
    assert len((await in_thread(run, "tail", *named))[1].splitlines()) == 2
    code, text = await in_thread(run, "purge", *named, "--yes")
    assert (code, "deleted 2 rows" in text) == (0, True)


async def test_a_replay_shows_numbers_of_any_size(run, dsn):
    talk = Talk("big").user("go").call("hm", [("read", {"n": 2**80})])
    await linked(dsn, talk.records, random.Random(0))
    code, text = await in_thread(run, "replay", "big")
    assert (code, str(2**80) in text) == (0, True)


async def test_a_session_that_is_not_there_says_where_to_look(run):
    code, text = await in_thread(run, "replay", "nobody")
    assert code == 1
    assert "agent-telemetry report sessions" in text


@pytest.mark.parametrize("name", REPORTS)
async def test_every_report_answers_as_text_and_as_json(run, name):
    code, text = await in_thread(run, "report", name, "--since", SINCE)
    assert code == 0
    assert len(text.splitlines()) >= 3
    code, text = await in_thread(run, "report", name, "--since", SINCE, "--json")
    assert json.loads(text)


async def test_the_overview_shows_several_reports(run):
    _, text = await in_thread(run, "report", "--since", SINCE)
    assert [line for line in text.splitlines() if line in OVERVIEW] == list(OVERVIEW)


async def test_reports_count_what_happened(run):
    _, text = await in_thread(run, "report", "stop-reasons", "--since", SINCE, "--json")
    assert {row["stop_reason"]: row["turns"] for row in json.loads(text)} == {
        "completed": 2,
        "user_aborted": 1,
        "empty_no_tools": 1,
    }
    _, text = await in_thread(run, "report", "tools", "--since", SINCE, "--json")
    assert [(r["tool"], r["results"], r["errors"]) for r in json.loads(text)] == [("read", 1, 0)]
    _, text = await in_thread(
        run, "report", "sessions", "--since", SINCE, "--project", "shop", "--json"
    )
    assert [row["session"] for row in json.loads(text)] == ["thread-43"]
    _, text = await in_thread(run, "report", "early-cut", "--since", "2031-01-01")
    assert text == "early-cut: nothing in this time\n"


async def test_rows_of_a_table_that_was_taken_over_are_no_failures(dsn, monkeypatch):
    """They say neither how they went nor, maybe, what they have to say in our form."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO agent_telemetry (record_type, model_used, system_prompt, chat_history,"
        " tool_results, duration_ms) VALUES ('llm_call', 'old', '', '[]', NULL, 7),"
        """ ('turn_summary', 'old', '', '[]', '[1, "x", {"name": "f", "is_error": "no",'
        ' "latency_ms": 1.5}, {"name": "f", "is_error": true, "latency_ms": "9"}]', 7)"""
    )
    await connection.close()

    async def report(name):
        arguments = ("report", name, "--since", SINCE, "--json")
        return json.loads((await in_thread(CliRunner().invoke, main, arguments)).output)

    assert [(row["calls"], row["failed_percent"]) for row in await report("models")] == [(1, "0.0")]
    assert await report("errors") == []
    assert [(row["calls"], row["median_ms"]) for row in await report("latency")] == [(1, 7)]
    assert [
        (row["tool"], row["results"], row["errors"], row["slowest_ms"])
        for row in await report("tools")
    ] == [("?", 2, 0, None), ("f", 2, 1, 2)]


def test_the_command_offers_every_report():
    assert set(REPORT_NAMES) == set(REPORTS)


async def test_tail_shows_turns_as_lines(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, text = await in_thread(run, "tail", "--turns", "--session", "thread-42")
    first = text.splitlines()[0]
    assert "turn session=thread-42 stop=completed rounds=2 tools=1 tokens=30/6 cost=$0.50" in first


def test_the_line_of_a_turn_names_what_an_operator_asks_for():
    row = {
        "record_type": "turn_summary",
        "created_at": BEGIN,
        "session_id": "s-1",
        "stop_reason": "loop_detected:same_call:grep",
        "rounds": 14,
        "tool_call_count": 13,
        "prompt_tokens": 210_000,
        "completion_tokens": 4_000,
        "cached_tokens": 193_200,
        "cost_usd": 0.41,
        "duration_ms": 192_000,
        "user_message": "find it",
    }
    assert lines.line(row, 200, with_content=False).split("  ", 1)[1] == (
        "turn session=s-1 stop=loop_detected:same_call:grep rounds=14 tools=13 tokens=210k/4k "
        "cache=92% cost=$0.41 3m12s"
    )
    assert "find it" in lines.line(row, 200)


async def test_recompute_judges_again_from_the_table_and_says_what_changed(run, connection):
    await connection.execute(
        "UPDATE agent_telemetry SET stop_reason = 'abandoned' WHERE stop_reason = 'completed'"
    )
    await connection.execute("TRUNCATE agent_links CASCADE")
    _, text = await in_thread(run, "recompute", "--json")
    turns = json.loads(text)["turns"]
    assert (turns["calls"], turns["turns"], turns["changed"]) == (6, 4, 2)
    assert turns["reasons"] == [{"before": "abandoned", "now": "completed", "turns": 2}]
    _, text = await in_thread(run, "recompute")
    assert "4 turns of 6 calls judged again: 0 changed, 0 new, 0 gone" in text


async def test_a_turn_that_has_not_ended_is_shown_with_what_came_back(run, dsn, connection):
    talk = Talk("open").user("go").call("hm", [("read", {"p": 1})]).results("found it")
    talk.call("hm", [("read", {"p": 2})])
    await linked(dsn, talk.records, random.Random(0))
    await connection.execute(
        "DELETE FROM agent_telemetry WHERE record_type = 'turn_summary' AND session_id = 'open'"
    )
    _, text = await in_thread(run, "replay", "open")
    assert "goes on" in text
    assert "gets     found it" in text


async def test_a_side_call_stands_where_it_was_made(dsn, monkeypatch):
    talk = Talk("s").user("look at all").call("hm", [("read", {"p": 1})]).results("ok")
    talk.user("You are performing a CONTEXT CHECKPOINT COMPACTION.")
    talk.call("One file was read.", request_params={})
    talk.messages = []
    talk.user("look at all").user("Another language model started to solve it: one was read")
    talk.call("done")
    await linked(dsn, talk.records, random.Random(0))
    monkeypatch.setenv("DATABASE_URL", dsn)
    result = await in_thread(lambda: CliRunner().invoke(main, ["replay", "s"]))
    lines = [line.strip().partition("  ")[0] for line in result.output.splitlines()]
    places = [lines.index(what) for what in ("round 1", "side call (compaction)")]
    assert places == sorted(places)
    assert lines.index("side call (compaction)") < lines.index("round 2 (compacted)")
