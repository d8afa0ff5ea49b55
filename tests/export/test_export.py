"""Data sets from a real database: which conversations are in, which are not, and in what form."""

import base64
import fcntl
import hashlib
import json
import os
from datetime import timedelta
from uuid import uuid4

import pytest

from proxy.record import Blob
from tests.export.checks import CHECKS
from tests.turns.scripts import BEGIN, Talk

FORMATS = sorted(CHECKS)
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def answered(session, *rounds, **columns):
    """A conversation of plain questions and answers."""
    talk = Talk(session)
    for said in rounds:
        talk.user(said).call(f"answer to {said}", **columns)
    return talk


def texts(line):
    return [message["content"] for message in line["messages"]]


def agent(session, path="a"):
    """A turn with a tool, thoughts and instructions."""
    talk = Talk(session).user(f"read {path}")
    talk.call(None, [("read", {"path": path})], system_prompt="Be brief.", response_thoughts="hm")
    return talk.results("content").call(
        "It says so.", system_prompt="Be brief.", response_thoughts="ah"
    )


def is_prefix(one, other):
    return len(one) <= len(other) and other[: len(one)] == one


@pytest.mark.parametrize("format", FORMATS)
def test_a_conversation_is_one_example_in_the_consumers_form(fill, export, format):
    fill(answered("s", "one", "two", "three"), agent("t"))
    done = export(format)
    assert done.code == 0, done.output
    assert len(done.lines) == 2
    for line in done.lines:
        CHECKS[format](line)


@pytest.mark.parametrize("format", [*FORMATS, "parquet"])
def test_odd_arguments_end_no_export(fill, export, format):
    deep = json.loads("[" * 300 + "]" * 300)
    talk = Talk("s").user("go").call(None, [("read", {"n": 2**70, "deep": deep})])
    written = talk.results("ok").messages[-2]["tool_calls"][0]["function"]
    written["arguments"] = written["arguments"].replace("{", '{"half": "\\ud83d", ')
    fill(talk.call("done"))
    done = export(format)
    assert done.code == 0, done.output


def test_what_stands_in_an_example(fill, export):
    fill(agent("s"))
    (line,) = export("openai").lines
    function = {"name": "read", "arguments": '{"path": "a"}'}
    (call,) = line["messages"][2]["tool_calls"]
    assert line["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "read a"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call["id"], "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call["id"], "content": "content"},
        {"role": "assistant", "content": "It says so."},
    ]
    parameters = {"type": "object", "properties": {}}
    tool = {"type": "function", "function": {"name": "read", "parameters": parameters}}
    assert line["tools"] == [tool]


def test_thoughts_are_kept_or_dropped(fill, export):
    fill(agent("s"))
    (line,) = export("trl").lines
    assert line["messages"][-1]["thinking"] == "ah"
    assert "ah" not in json.dumps(export("trl", "--thoughts", "drop").lines)
    (line,) = export("jsonl", "--thoughts", "drop").lines
    assert line["target_output"]["thoughts"] is None


def test_turns_that_did_not_complete_are_left_out_with_all_that_follows_them(fill, export):
    cut = answered("cut", "one").user("two").call("half", outcome="client_disconnected")
    cut.user("three").call("answer to three")
    stuck = Talk("stuck").user("go").call("hm", [("read", {})])
    fill(cut, stuck, answered("good", "fine"))
    assert [texts(line) for line in export().lines] == [
        ["one", "answer to one"],
        ["fine", "answer to fine"],
    ]
    assert export("openai", "--stop-reason", "user_aborted").lines == []
    stopped = export("openai", "--stop-reason", "abandoned").lines
    assert [line["messages"][-1]["tool_calls"][0]["function"]["name"] for line in stopped] == [
        "read"
    ]
    assert len(export("openai", "--stop-reason", "any").lines) == 3


def test_every_branch_of_a_conversation_is_an_example(fill, export):
    trunk = answered("s", "one")
    branch = trunk.branch().wait(30).user("three").call("no")
    fill(trunk.user("two").call("yes"), branch)
    assert [texts(line)[2:] for line in export().lines] == [["two", "yes"], ["three", "no"]]


def test_the_same_words_in_two_sessions_are_one_example(fill, export):
    fill(answered("s", "hello"), answered("t", "hello", "more"), answered("u", "hello"))
    done = export()
    assert [texts(line)[0::2] for line in done.lines] == [["hello", "more"]]
    assert done.left_out == {"another example is the same or goes on from it": 2}


FILTERS = [
    (("--project", "shop"), {"b"}),
    (("--session", "a"), {"a"}),
    (("--model", "model-2"), {"c"}),
    (("--since", "2026-03-01T14:00"), {"c", "d"}),
    (("--until", "2026-03-01T14:00"), {"a", "b"}),
    (("--max-tokens", "12"), {"a", "b", "c"}),
    (("--min-rounds", "2"), {"d"}),
    (("--label", "team=blue"), {"b"}),
    (("--label", "team"), {"a", "b"}),
    (("--feedback", "thumbs=up"), {"a"}),
    (("--feedback", "score>=0.5"), {"c", "d"}),
    (("--feedback", "score=0.5"), {"c"}),
    (("--feedback", "thumbs", "--project", "shop"), set()),
    (("--model", "model-1", "--model", "model-2"), {"a", "b", "c", "d"}),
]


@pytest.fixture
def various(fill, query):
    """Conversations that differ in everything that can be asked for."""
    b = answered("b", "b", project_id="shop", labels={"team": "blue"})
    c = Talk("c", at=BEGIN + timedelta(hours=3)).user("c").call("ok", model_used="model-2")
    d = Talk("d", at=BEGIN + timedelta(hours=4)).user("d").call("hm", [("read", {})])
    d.results("x").call("ok", total_tokens=13)
    fill(answered("a", "a", labels={"team": "red"}), b, c, d)
    turns = query("SELECT session_id, turn_id FROM agent_telemetry WHERE record_type <> 'llm_call'")
    turn_of = {row["session_id"]: row["turn_id"] for row in turns}
    insert = "INSERT INTO agent_feedback (id, name, value, {}) VALUES ($1, $2, $3, $4)"
    query(insert.format("session_id"), uuid4(), "thumbs", "up", "a")
    query(insert.format("call_id"), uuid4(), "score", 0.5, c.records[-1].id)
    query(insert.format("turn_id"), uuid4(), "score", 1, turn_of["d"])
    query(insert.format("session_id"), uuid4(), "score", "high", "a")


def test_filters_choose_conversations(various, export):
    for arguments, expected in FILTERS:
        lines = export("openai", *arguments).lines
        assert {texts(line)[0] for line in lines} == expected, arguments
    assert export("openai", "--feedback", "score>=high").code == 2


def test_feedback_on_a_session_holds_in_every_project_unless_it_names_one(fill, export, query):
    fill(answered("s", "one", project_id="shop"), answered("s", "two"), answered("t", "three"))
    columns = "id, name, value, session_id, project_id"
    insert = f"INSERT INTO agent_feedback ({columns}) VALUES ($1, $2, $3, $4, $5)"
    query(insert, uuid4(), "thumbs", "up", "s", None)
    query(insert, uuid4(), "stars", 5, "s", "shop")
    query(insert, uuid4(), "stars", 5, "t", "shop")
    assert {texts(line)[0] for line in export("openai", "--feedback", "thumbs=up").lines} == {
        "one",
        "two",
    }
    assert [texts(line)[0] for line in export("openai", "--feedback", "stars>=4").lines] == ["one"]


def test_until_gives_the_data_set_of_that_time(fill, export):
    talk = answered("s", "one")
    at = talk.at.isoformat()
    fill(talk.wait(1).user("two").call("yes"))
    assert [texts(line) for line in export("openai", "--until", at).lines] == [
        ["one", "answer to one"]
    ]


def test_one_export_at_a_time_writes_into_a_directory(fill, export, tmp_path):
    fill(answered("s", "one"))
    assert export().code == 0
    held = os.open(tmp_path / "out", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = export(to="other.jsonl")
        assert done.code == 1
        assert f"another export writes into {tmp_path / 'out'}" in done.output
    finally:
        os.close(held)
    assert export(to="other.jsonl").code == 0


def test_what_is_no_file_is_not_replaced_by_one(fill, export, tmp_path):
    fill(answered("s", "one"))
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "pipe")
    done = export(to="pipe")
    assert (done.code, "is no regular file" in done.output) == (1, True)
    assert done.path.is_fifo()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere" / "data.jsonl")
    done = export(to="link")
    assert (done.code, len(done.lines), done.path.is_symlink()) == (0, 1, True)


@pytest.mark.parametrize("format", [*FORMATS, "parquet"])
def test_two_runs_give_the_same_bytes(various, export, format):
    first, again = export(format, to="a.jsonl"), export(format, to="b.jsonl")
    assert first.path.read_bytes() == again.path.read_bytes()
    assert first.code == 0


def test_the_card_counts_and_names_where_examples_are_from(fill, export):
    talk, bad = answered("s", "one", "two"), answered("t", "x")
    fill(talk, bad.user("more").call(None, [("no such name!", {})]).results("1").call("ok"))
    done = export()
    one, two = (row.id for row in talk.records)
    assert f"| train | 1 | {two} | {one} |" in done.card
    reason = "the name of a tool is not of letters, digits, _ and -, at most 64"
    assert f"| {reason} | 1 | {bad.records[-1].id} |" in done.card
    assert "≤        16          1" in done.card
    assert done.card == export().card


def test_a_split_keeps_conversations_together_and_never_changes(fill, export):
    fill(*(answered(f"s{n}", f"question {n}") for n in range(60)))
    done = export("openai", "--split", "0.8")
    train, held_out = (
        done.path.with_name(f"data.{name}.jsonl").read_text().splitlines()
        for name in ("train", "validation")
    )
    assert len(train) + len(held_out) == 60
    assert 40 <= len(train) <= 56
    fill(*(answered(f"more{n}", f"another {n}") for n in range(5)))
    export("openai", "--split", "0.8")
    assert set(train) <= set(done.path.with_name("data.train.jsonl").read_text().splitlines())


def regenerated(session="s"):
    """A question answered twice; the agent goes on with the second answer."""
    talk = Talk(session).user("hello").call("hi").user("tell me").call("a bad joke", is_kept=False)
    return talk.wait(5).call("a good joke").user("thanks").call("welcome")


@pytest.mark.parametrize("format", FORMATS)
def test_answers_to_one_history_make_a_preference_pair(fill, export, format):
    fill(regenerated())
    (line,) = export(format, "--pairs").lines
    CHECKS[format](line)


def test_the_answer_that_was_gone_on_with_is_preferred(fill, export):
    fill(regenerated(), answered("t", "alone"))
    (line,) = export("trl", "--pairs").lines
    assert [m["content"] for m in line["prompt"]] == ["hello", "hi", "tell me"]
    assert line["chosen"] == [{"role": "assistant", "content": "a good joke"}]
    assert line["rejected"] == [{"role": "assistant", "content": "a bad joke"}]


def test_partial_contexts_are_put_together(fill, export):
    talk, history = Talk("s"), []
    for number, said in enumerate(["one", "two", "three"]):
        talk.messages = [{"role": "user", "content": said}]
        params = {"previous_response_id": f"r{number - 1}"} if number else {}
        capture = {"response_id": f"r{number}"} | ({"context": "partial"} if number else {})
        talk.call(f"{said}!", endpoint="responses", request_params=params, capture=capture)
        history += [said, f"{said}!"]
    talk.messages = [{"role": "user", "content": "lost"}]
    fill(
        talk.call("!", request_params={"previous_response_id": "?"}, capture={"context": "partial"})
    )
    done = export()
    assert [texts(line) for line in done.lines] == [history]
    assert done.left_out == {"the beginning of the conversation is not there": 1}


def test_media_come_back(fill, export, query):
    digest = hashlib.sha256(PNG).hexdigest()
    place = {"$blob": digest, "media_type": "image/png", "bytes": len(PNG)}
    url = {"type": "image_url", "image_url": {"url": place | {"prefix": "data:image/png;base64,"}}}
    talk = Talk("s")
    talk.messages = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, url]}]
    talk.call("a dot", capture={"blobs": [digest]})
    fill(talk, blobs=[Blob(digest, "image/png", PNG)])
    data = base64.b64encode(PNG).decode()
    for format in ("openai", "trl", "anthropic", "gemini", "jsonl"):
        done = export(format)
        assert data in done.path.read_text(), done.output
        CHECKS[format](done.lines[0])
    query("DELETE FROM agent_blobs")
    assert export().left_out == {"a medium that is not stored any more": 1}


def test_strict_redaction_searches_again(fill, export):
    key = "sk-ant-api03-" + "Ab1" * 31
    fill(answered("s", f"my key is {key}"))
    assert key in export().path.read_text()
    done = export("openai", "--redact", "strict")
    assert key not in done.path.read_text() + done.card
    assert "[REDACTED:" in done.path.read_text()
    assert "Redacted again before writing: 2 places." in done.card


def test_later_runs_write_what_is_new(fill, export):
    fill(answered("s", "one"))
    first = export("openai", "--since-last")
    assert len(first.lines) == 1
    nothing = export("openai", "--since-last")
    assert "       0  examples in" in nothing.output
    fill(answered("t", "two"))
    third = export("openai", "--since-last")
    path = first.path.with_name("data.3.jsonl")
    assert json.loads(path.read_text())["messages"][0]["content"] == "two"
    assert first.path.with_name("dataset_card.3.md").exists()
    assert export("trl", "--since-last").code == 2
    assert third.code == 0


def test_nothing_is_left_behind_where_writing_fails(fill, export, tmp_path):
    (tmp_path / "out").write_text("in the way")
    done = export()
    assert (done.code, list(tmp_path.glob(".*"))) == (1, [])


def test_an_export_as_recorded_agrees_with_the_view(various, export, query):
    rows = query("SELECT id, input_context, target_output FROM agent_training")
    view = {str(row["id"]): (row["input_context"], row["target_output"]) for row in rows}
    lines = export("jsonl", "--stop-reason", "any").lines
    assert lines
    for line in lines:
        assert (line["input_context"], line["target_output"]) == view[line["id"]]
