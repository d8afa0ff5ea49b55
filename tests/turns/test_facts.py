"""Facts are taken from any record, and mean the same however a client writes the same history."""

import json
from dataclasses import replace
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.assemble import Assembler
from proxy.enrich.canonical import Called, Result, Said, Typed, parts_of
from proxy.enrich.facts import link_of, without_content
from proxy.enrich.histories import Histories
from proxy.enrich.results import comparable, is_failure
from proxy.enrich.threads import place, turns_of
from proxy.environment import load
from proxy.injected import Injection, read
from proxy.record import TelemetryRecord
from proxy.turn import Facts
from tests.pipeline.exchanges import chat
from tests.turns.recorded import HAS_RECORDINGS, exchange_of, scenarios
from tests.turns.scripts import BEGIN, DIGESTS, Talk

NAMES = st.sampled_from(
    [
        *("role", "content", "type", "parts", "text", "tool_calls", "function", "name"),
        *("arguments", "id", "call_id", "tool_use_id", "functionCall", "functionResponse"),
        *("toolUse", "toolResult", "response", "output", "is_error", "status", "thought", "args"),
    ]
)
WORDS = st.sampled_from(
    [
        *("user", "assistant", "model", "tool", "system", "function_call", "tool_result"),
        *("function_call_output", "tool_use", "message", "reasoning", "error"),
        *("{", "\ud800", "a\0b"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=5), st.lists(JSON, max_size=3), st.dictionaries(NAMES, JSON), JSON)
def test_any_record_gives_facts_that_json_and_postgresql_can_hold(history, tools, params, text):
    """Invariant: nothing that people send stops a call from being placed."""
    record = TelemetryRecord(
        **{"id": Talk().user("x").call("y").records[0].id, "created_at": BEGIN},
        model_used="m",
        duration_ms=1,
        outcome="complete",
        chat_history=history,
        tool_calls=tools,
        request_params=params,
        response_text=text if isinstance(text, str) else None,
        session_id=text if isinstance(text, str) else None,
        capture={"hints": text, "turn_label": text, "response_id": text},
    )
    link = link_of(record, DIGESTS)
    written = orjson.dumps([link.facts.as_json(), link.outputs])
    assert b"\\u0000" not in written
    assert Facts.from_json(json.loads(written)[0]) == link.facts
    assert len(turns_of([link.facts], place([link.facts]))) in (0, 1)


CALL = {"city": "Rome", "days": 2}
HISTORIES = {
    "chat completions": [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "thinking",
            "tool_calls": [
                {"id": "c1", "function": {"name": "w", "arguments": '{"days":2, "city":"Rome"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "assistant", "content": "It is  sunny."},
        {"role": "user", "content": [{"type": "text", "text": "thanks"}]},
    ],
    "responses": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "encrypted_content": "abc"},
        {"type": "function_call", "call_id": "c1", "name": "w", "arguments": json.dumps(CALL)},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "It is sunny."}]},
        {"role": "user", "content": "thanks"},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "c1", "name": "w", "input": CALL},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}],
        },
        {"role": "assistant", "content": "It is sunny."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>new</system-reminder>"},
                {"type": "text", "text": "thanks"},
            ],
        },
    ],
    "generateContent": [
        {"role": "user", "parts": [{"text": "hi"}]},
        {
            "role": "model",
            "parts": [
                {"text": "hm", "thought": True},
                {"functionCall": {"id": "c1", "name": "w", "args": CALL}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "c1", "name": "w", "response": {"output": "sunny"}}},
                {"functionResponse": {"id": "c1", "name": "w", "response": {"output": "sunny"}}},
            ],
        },
        {"role": "model", "parts": [{"text": "It is sunny."}]},
        {"parts": [{"text": "thanks"}]},
    ],
    "converse": [
        {"role": "user", "content": [{"text": "hi"}]},
        {
            "role": "assistant",
            "content": [{"toolUse": {"toolUseId": "c1", "name": "w", "input": CALL}}],
        },
        {
            "role": "user",
            "content": [{"toolResult": {"toolUseId": "c1", "content": [{"text": "sunny"}]}}],
        },
        {"role": "assistant", "content": [{"text": "It is sunny."}]},
        {"role": "user", "content": [{"text": "thanks"}]},
    ],
}


def facts_of(history):
    record = Talk("s").user("x").call("done").records[0]
    values = {n: getattr(record, n) for n in record.__dataclass_fields__}
    return link_of(TelemetryRecord(**values | {"chat_history": history}), DIGESTS).facts


@pytest.mark.parametrize("dialect", HISTORIES)
def test_a_history_has_one_canonical_form_in_every_dialect(dialect):
    facts = facts_of(HISTORIES[dialect])
    assert facts.kinds == "umrmu"
    assert facts.chain == facts_of(HISTORIES["chat completions"]).chain


@pytest.mark.parametrize("dialect", HISTORIES)
def test_parts_say_the_same_in_every_dialect(dialect):
    parts = list(parts_of(HISTORIES[dialect]))
    assert [part.text.split() for part in parts if isinstance(part, Said)] == [
        ["It", "is", "sunny."]
    ]
    assert [part for part in parts if isinstance(part, Called)] == [Called("w", CALL, "c1")]
    assert {(part.id, part.output) for part in parts if isinstance(part, Result)} == {
        ("c1", "sunny")
    }
    assert [part.texts for part in parts if isinstance(part, Typed)] == [("hi",), ("thanks",)]


def test_digests_differ_with_the_secret_and_with_every_word():
    one = facts_of(HISTORIES["messages"]).chain
    other = facts_of([{"role": "user", "content": "Hi"}, *HISTORIES["messages"][1:]]).chain
    assert not set(one) & set(other)


def test_a_link_without_content_keeps_what_judging_needs():
    talk = Talk("s").user("one").call("hm", [("read", {})]).results("Error: secret").call("done")
    link = link_of(talk.records[1], DIGESTS)
    bare = without_content(link)
    assert bare.facts == link.facts
    assert [output["output"] for output in bare.outputs] == [None]
    assert [output["is_error"] for output in bare.outputs] == [True]


def test_where_only_metadata_may_be_kept_the_facts_are_the_same():
    assembler = Assembler(load(None, {"HOME": "/"}), DIGESTS)
    id = UUID(int=1)
    links = [
        assembler.assembled(chat("a question", id=id, content=content)).beside.link
        for content in ("full", "metadata")
    ]
    assert links[0].facts == links[1].facts
    assert links[0].facts.kinds == "u"


@pytest.mark.parametrize(
    ("output", "flag", "is_error"),
    [
        ("fine", None, False),
        ("Error: no such file", None, True),
        ("No errors found", None, False),
        ("Error: ignored", False, False),
        ("fine", True, True),
        ('{"error": "not found"}', None, True),
        ("Traceback (most recent call last):\n", None, True),
        ("ValueError: bad", None, True),
        ("Chunk ID: 1\nProcess exited with code 2\nOutput:\n", None, True),
        ("Chunk ID: 1\nProcess exited with code 0\nOutput:\nError: old log", None, False),
        ("unsupported call: x", None, True),
        ("1 validation error\n\nFix the errors and try again.", None, True),
    ],
)
def test_a_failure_is_told_by_flag_or_by_shape(output, flag, is_error):
    assert is_failure(output, flag=flag) is is_error


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Chunk ID: 6328a7\nWall time: 0.2 s\ncode 2", "Chunk ID: 928cdb\nWall time: 9 s\ncode 2"),
        ("Process Group PGID: 6660\nfailed", "Process Group PGID: 7770\nfailed"),
        ("at 12:00:01 request 0xdeadbeef", "at 13:59:59 request 0xcafe12"),
    ],
)
def test_errors_are_compared_without_what_changes_at_each_call(one, other):
    assert comparable(one) == comparable(other)
    assert comparable("exit code 1") != comparable("exit code 2")


@pytest.mark.parametrize(
    ("text", "typed", "why"),
    [
        ("plain words", "plain words", set()),
        ("<system-reminder>x</system-reminder>", "", {Injection.CONTEXT}),
        ("<system-reminder>x</system-reminder>\nwords", "words", {Injection.CONTEXT}),
        ("words <system-reminder> unclosed", "words <system-reminder> unclosed", set()),
        ("<turn_aborted>x</turn_aborted>", "", {Injection.ABORT}),
        ("Continue from where you left off.", "", {Injection.NUDGE}),
        ("This session is being continued from x", "", {Injection.SUMMARY}),
    ],
)
def test_what_a_client_puts_in_is_told_from_what_was_typed(text, typed, why):
    reading = read(text)
    assert (reading.typed, set(reading.injections)) == (typed, why)


@given(st.text(alphabet="<>/system-rmind \n", max_size=200))
def test_reading_a_text_never_makes_it_longer(text):
    """Invariant: what was typed is a part of what was sent."""
    assert len(read(text).typed) <= len(text)


def names_of(history: list[object]) -> list[bytes]:
    return [orjson.dumps(message) for message in history]


@pytest.mark.skipif(not HAS_RECORDINGS, reason="the recorded agents are not here")
def test_facts_are_the_same_whatever_was_read_before():
    """Every recorded conversation, its calls in order and against it, with one memory for all."""
    histories = Histories()
    count = 0
    assembler = Assembler(load(None, {}))
    for scenario in scenarios():
        records = [
            assembler.assembled(exchange_of(record, n, is_bare=False)).record
            for n, record in enumerate(scenario.records)
        ]
        for record in [*records, *reversed(records)]:
            names = names_of(record.chat_history)
            assert link_of(record, DIGESTS, histories, names) == link_of(record, DIGESTS)
            count += 1
    assert count > 100


@given(st.lists(st.lists(JSON, max_size=4), min_size=1, max_size=4))
def test_facts_are_the_same_for_any_beginnings(pieces):
    """Histories that share beginnings of any shape, some without a name."""
    histories, history = Histories(), []
    first = Talk().user("x").call("y").records[0]
    for piece in pieces:
        history = [*history, *piece]
        record = replace(first, chat_history=history)
        names = [None if message is None else repr(message).encode() for message in history]
        assert link_of(record, DIGESTS, histories, names) == link_of(record, DIGESTS)


def test_what_is_remembered_of_histories_is_bounded(monkeypatch):
    monkeypatch.setattr("proxy.enrich.histories.HISTORIES_MAX", 3)
    monkeypatch.setattr("proxy.enrich.histories.HISTORY_BYTES_MAX", 10_000)
    histories = Histories()
    first = Talk().user("x").call("y").records[0]
    for number in range(9):
        history = [{"role": "user", "content": f"{number}" * 10}]
        record = replace(first, chat_history=history)
        link_of(record, DIGESTS, histories, names_of(history))
    long = [{"role": "user", "content": "x" * 20_000}]
    link_of(replace(first, chat_history=long), DIGESTS, histories, names_of(long))
    assert len(histories._known) == 3
    assert histories._bytes == sum(weight for _, weight in histories._known.values()) < 10_000
