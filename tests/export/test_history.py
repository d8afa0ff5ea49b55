"""Histories of every dialect as neutral messages; odd ones are refused, never half read."""

import base64
import contextlib
import gzip
import json
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.decode.dispatch import decode
from proxy.endpoints import classify
from proxy.exchange import AnswerHead, Exchange, Piece, Start
from proxy.export.conversation import conversation_of
from proxy.export.formats import SHAPES
from proxy.export.history import read_answer, read_history
from proxy.export.message import Role, Unconvertible
from proxy.export.tools import read_tools
from tests.export.checks import CHECKS

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"
CALL = {"a": 1}
# One talk in every dialect: a question, a thought, a call, its result, an answer.
DIALECTS = {
    "openai chat": [
        {"role": "user", "content": [{"type": "text", "text": "go"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "out"},
        {"role": "assistant", "content": "done"},
    ],
    "openai responses": [
        {"role": "user", "content": [{"type": "input_text", "text": "go"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": "out"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "done"}],
        },
    ],
    "anthropic": [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
                {"type": "tool_use", "id": "c", "name": "f", "input": CALL},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c",
                    "content": [{"type": "text", "text": "out"}],
                }
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "done"}]},
    ],
    "gemini": [
        {"role": "user", "parts": [{"text": "go"}]},
        {
            "role": "model",
            "parts": [
                {"text": "hm", "thought": True},
                {"functionCall": {"name": "f", "args": CALL}, "thoughtSignature": "x"},
            ],
        },
        {
            "role": "user",
            "parts": [{"functionResponse": {"name": "f", "response": {"output": "out"}}}],
        },
        {"role": "model", "parts": [{"text": "done"}]},
    ],
    "bedrock": [
        {"role": "user", "content": [{"text": "go"}, {"cachePoint": {"type": "default"}}]},
        {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "x"}}},
                {"toolUse": {"toolUseId": "c", "name": "f", "input": CALL}},
            ],
        },
        {
            "role": "user",
            "content": [{"toolResult": {"toolUseId": "c", "content": [{"text": "out"}]}}],
        },
        {"role": "assistant", "content": [{"text": "done"}]},
    ],
    "ollama": [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [{"function": {"name": "f", "arguments": CALL}}],
        },
        {"role": "tool", "tool_name": "f", "content": "out"},
        {"role": "assistant", "content": "done"},
    ],
    "cohere": [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "tool_plan": "hm",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": [{"type": "text", "text": "out"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "done"}]},
    ],
}


@pytest.mark.parametrize("name", DIALECTS)
def test_one_talk_reads_alike_in_every_dialect(name):
    asked, called, result, done = read_history(DIALECTS[name])
    assert (asked.role, asked.text) == (Role.USER, "go")
    (call,) = called.calls
    assert (called.role, called.thoughts) == (Role.ASSISTANT, "hm")
    assert (call.name, call.arguments) == ("f", CALL)
    (back,) = result.results
    assert (result.role, back.id, back.name) == (Role.TOOL, call.id, "f")
    assert [part.text for part in back.content] == ["out"]
    assert (done.role, done.text) == (Role.ASSISTANT, "done")


def assistant(*calls):
    return {
        "role": "assistant",
        "tool_calls": [{"id": id, "function": {"name": "f"}} for id in calls],
    }


def tool(id, text="x"):
    return {"role": "tool", "tool_call_id": id, "content": text}


USER = {"role": "user", "content": "go"}


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ([USER, assistant("a"), USER], "a tool call without its result"),
        ([USER, tool("a")], "the result of a tool call that is not in the history"),
        ([{"role": "narrator", "content": "x"}], "a message of an unknown role"),
        ([7], "a message that is no object"),
        ([{"type": "item_reference", "id": "x"}], "the history refers to items"),
        ([{"role": "user", "content": [{"type": "hologram"}]}], "a part of an unknown kind"),
        ([{"role": "assistant", "tool_calls": [{"id": "a"}]}], "a tool call without a name"),
    ],
)
def test_what_would_be_lost_is_refused(history, reason):
    with pytest.raises(Unconvertible, match=reason):
        read_history(history)


def test_ids_that_are_used_again_are_told_apart():
    messages = read_history([USER, assistant("a"), tool("a", "1"), assistant("a"), tool("a", "2")])
    ids = [call.id for message in messages for call in message.calls]
    assert ids == ["a", "a_1"]
    assert [result.id for message in messages for result in message.results] == ids


def test_a_result_that_came_twice_counts_once():
    messages = read_history([USER, assistant("a"), tool("a"), tool("a"), USER])
    assert [message.role for message in messages] == ["user", "assistant", "tool", "user"]


def test_results_come_before_what_was_typed_beside_them():
    result = {"type": "tool_result", "tool_use_id": "a", "content": "x", "is_error": True}
    both = {"role": "user", "content": [{"type": "text", "text": "and"}, result]}
    _, _, results, typed = read_history([USER, assistant("a"), both])
    assert (results.results[0].is_error, typed.text) == (True, "and")


def test_an_answer_keeps_the_text_of_arguments_and_leaves_the_providers_calls_out():
    calls = [
        {"id": "a", "name": "f", "arguments": {"b": 1, "a": 2}, "raw": '{"b": 1, "a": 2}'},
        {"id": "s", "name": "web_search", "arguments": {}, "server": True},
        {"id": "p", "name": "patch", "arguments": "*** Begin"},
    ]
    one, two = read_answer("ok", None, calls).calls
    assert (one.text, two.arguments) == ('{"b": 1, "a": 2}', {"input": "*** Begin"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"n": NaN, "m": -Infinity}', {"n": "NaN", "m": "-Infinity"}),
        ('{"n": 1e400}', {"n": "1e400"}),
        ('{"n": 123456789012345678901234567890}', {"n": 123456789012345678901234567890}),
        ('{"a\\ud83d": ["\\ud83d", "\\ud83d\\ude00"]}', {"a\ufffd": ["\ufffd", "\U0001f600"]}),
        ('{"a": ' + "[" * 3000 + "]" * 3000 + "}", None),
        ('{"n": ' + "9" * 5000 + "}", None),
    ],
)
def test_arguments_that_no_file_could_hold_are_mended(text, value):
    """Models write such things, and one of them must not end an export."""
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
    history = [USER, {"role": "assistant", "content": None, "tool_calls": [called]}]
    history += [{"role": "tool", "tool_call_id": "c", "content": text}, assistant("done")]
    (read,) = read_history(history)[1].calls
    assert read.arguments == (value or {"input": text})
    row = {"chat_history": history[:-1], "request_params": None} | ANSWER
    for format, shape in SHAPES.items():
        line = shape.conversation(conversation_of([row], keeps_thoughts=True))
        json.dumps(line, allow_nan=False, ensure_ascii=False).encode()
        if format == "openai":
            (made,) = line["messages"][1]["tool_calls"]
            json.loads(made["function"]["arguments"], parse_constant=pytest.fail)


SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}}
OWN_SCHEMA = {"type": "OBJECT", "properties": {"x": {"type": "STRING"}}}


@pytest.mark.parametrize(
    "params",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]},
        {"tools": [{"type": "function", "name": "f", "parameters": SCHEMA}]},
        {"tools": [{"name": "f", "input_schema": SCHEMA}]},
        {"tools": [{"functionDeclarations": [{"name": "f", "parameters": OWN_SCHEMA}]}]},
        {"toolConfig": {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": SCHEMA}}}]}},
        {"functions": [{"name": "f", "parameters": SCHEMA}]},
    ],
)
def test_tools_of_every_dialect_are_read(params):
    (found,) = read_tools(params)
    assert (found.name, found.parameters) == ("f", SCHEMA)


def test_tools_that_the_provider_runs_are_not_offered():
    tools = [{"type": "web_search_20250305", "name": "web_search"}, {"type": "code_interpreter"}]
    assert read_tools({"tools": tools}) == ()


NAMES = (
    *("role", "content", "type", "parts", "text", "tool_calls", "id", "function", "name"),
    *("arguments", "functionCall", "toolUse", "source", "image", "output"),
)
WORDS = ("user", "assistant", "tool", "tool_use", "tool_result", "function_call", "image")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)
ANSWER = {"system_prompt": "", "response_text": "x", "response_thoughts": None, "tool_calls": None}


@given(st.lists(JSON, max_size=4), JSON)
def test_anything_at_all_is_read_or_refused(history, params):
    """No history and no tools raise anything but Unconvertible."""
    read_tools(params)
    row = {"chat_history": history, "request_params": params if isinstance(params, dict) else None}
    try:
        conversation = conversation_of([row | ANSWER], keeps_thoughts=True)
    except Unconvertible:
        return
    for shape in SHAPES.values():
        try:
            json.dumps(shape.conversation(conversation))
        except Unconvertible:
            continue


def recordings():
    """Every answered call of the corpus, with its name."""
    for file in sorted(CORPUS.glob("*.jsonl.gz")):
        with gzip.open(file) as lines:
            for line in lines:
                recorded = json.loads(line)
                request, response = recorded["request"], recorded["response"]
                endpoint = classify(request["method"], request["path"].partition("?")[0])
                if endpoint is not None and response.get("status", 500) < 400:
                    yield recorded["id"], exchange_of(request, response, endpoint.name)


def exchange_of(request, response, endpoint):
    asked, answered = (
        tuple((name.lower(), value) for name, value in each["headers"].items())
        for each in (request, response)
    )
    given, body = (base64.b64decode(each.get("body_b64") or "") for each in (request, response))
    start = Start(UUID(int=0), 0, "up", "openai", endpoint, "POST", request["path"], asked)
    return Exchange(start, given, AnswerHead(0, response["status"], answered), (Piece(0, body),))


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not beside the repository")
def test_recorded_calls_of_every_provider_become_examples():
    refused, made, wrong = Counter(), 0, []
    for name, exchange in recordings():
        call = decode(exchange)
        prompt, answer = call.prompt, call.answer
        row = {
            "system_prompt": prompt.system_prompt,
            "chat_history": list(prompt.chat_history),
            "request_params": prompt.request_params,
            "response_text": answer.text,
            "response_thoughts": answer.thoughts,
            "tool_calls": [called.as_json() for called in answer.tool_calls],
        }
        try:
            conversation = conversation_of([row], keeps_thoughts=False)
        except Unconvertible as reason:
            refused[str(reason)] += 1
            continue
        made += 1
        for format in CHECKS.keys() - {"jsonl"}:
            with contextlib.suppress(Unconvertible):
                line = SHAPES[format].conversation(conversation)
                try:
                    CHECKS[format](line)
                except Exception as error:
                    wrong.append(f"{name} as {format}: {error!r}"[:200])
    assert not wrong, wrong
    assert made > 3500
    assert refused.total() < 0.1 * made
