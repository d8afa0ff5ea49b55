"""Decoding is total, and says when content came."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from proxy.call import ModelCall
from proxy.decode import dispatch
from proxy.decode.dispatch import decode
from proxy.decode.framing import Framing, framing_of
from proxy.endpoints import classify
from proxy.exchange import AnswerHead, Exchange
from tests.decode.cases import ENDPOINTS, all_cases, check, exchange, exchange_of, raw_message

CONTENT_TYPES = (
    *(None, "application/json", "text/event-stream", "application/x-ndjson", "text/html", "é;"),
    "application/vnd.amazon.eventstream",
)
CODINGS = (None, "gzip", "deflate", "br", "zstd", "gzip, br", "x-other")
BODIES = [exchange_of(case).response_body for _, case in all_cases()]
REQUESTS = [json.dumps(case["request"]).encode() for _, case in all_cases()]


@given(
    st.sampled_from(ENDPOINTS),
    st.binary(max_size=200),
    st.binary(max_size=200),
    st.sampled_from(CONTENT_TYPES),
    st.sampled_from(CODINGS),
    st.sampled_from([200, 204, 302, 400, 500]),
)
def test_any_bytes_give_a_call(
    endpoint: str, request: bytes, answer: bytes, label: str | None, coding: str | None, status: int
) -> None:
    """Whatever the bytes and labels, there is a call and no decoder fails."""
    check(
        decode(
            exchange(
                endpoint, request, answer,
                content_type=label, coding=coding, request_coding=coding, status=status,
            )
        )
    )  # fmt: skip


@given(
    st.sampled_from(ENDPOINTS),
    st.sampled_from(REQUESTS),
    st.sampled_from(BODIES),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), max_size=4),
)
def test_mutated_bodies_give_a_call(
    endpoint: str, request: bytes, answer: bytes, changes: list[tuple[int, bytes]]
) -> None:
    """True bodies under any endpoint, with bytes exchanged, give a call and no decoder fails."""
    for place, new in changes:
        request = splice(request, place, new)
        answer = splice(answer, place, new)
    check(decode(exchange(endpoint, request, answer)))


def splice(data: bytes, place: int, new: bytes) -> bytes:
    place %= len(data) + 1
    return data[:place] + new + data[place + len(new) :]


NAMES = st.sampled_from(
    [
        *("messages", "role", "content", "type", "text", "thinking", "system", "input", "output"),
        *("id", "name", "arguments", "function", "tool_calls", "choices", "delta", "message"),
        *("usage", "index", "finish_reason", "error", "contents", "parts", "functionCall", "args"),
        *("candidates", "toolUse", "metadata", "user_id", "response", "item", "output_index"),
        *("prompt", "instructions", "user", "tools", "tool_result", "partialArgs", "jsonPath"),
        *("content_block", "partial_json", "reasoning_details", "summary"),
    ]
)
WORDS = st.sampled_from(
    [
        *("user", "x", "", "message", "content_block_start", "content_block_delta", "tool_use"),
        *("response.output_item.added", "response.completed", "reasoning", "function_call"),
    ]
)
SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)


@given(st.sampled_from(ENDPOINTS), SHAPES, st.lists(SHAPES, max_size=4), st.integers(0, 2))
def test_members_of_any_type_give_a_call(
    endpoint: str, request: Any, events: list[Any], framing: int
) -> None:
    """Known names with values of any type give a call and no decoder fails."""
    lines = [json.dumps(event).encode() for event in events]
    answer = [
        b"".join(b"data: " + line + b"\n\n" for line in lines),
        b"\n".join(lines),
        b"".join(raw_message({":event-type": "chunk"}, line) for line in lines),
    ][framing]
    check(decode(exchange(endpoint, json.dumps(request).encode(), answer)))


HOSTILE = {
    "deep": b'{"messages":' + b"[" * 100_000,
    "deep but whole": b'{"messages":' + b"[" * 1000 + b"]" * 1000 + b"}",
    "digits": b'{"messages":[],"n":' + b"9" * 5000 + b"}",
    "surrogate": b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    "NaN": b'{"messages":[],"temperature":NaN}',
    "duplicates": b'{"messages":1,"messages":[]}',
    "NUL": b'{"messages":[{"role":"user","content":"\\u0000"}]}',
    "invalid UTF-8": b'{"messages":[{"role":"user","content":"\xff\xfe"}]}',
    "huge index": b'{"choices":[{"index":99999999999999999999,"message":{"content":"a"}}]}',
    "huge count": b'{"usage":{"prompt_tokens":1e300,"completion_tokens":1e999}}',
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_hostile_documents_give_a_call(endpoint: str, name: str) -> None:
    body = HOSTILE[name]
    check(decode(exchange(endpoint, body, body)))
    check(decode(exchange(endpoint, body, b"data: " + body + b"\n\n")))


@given(st.sampled_from(all_cases()), st.lists(st.integers(0, 5000), max_size=6), st.booleans())
def test_how_the_answer_came_changes_nothing_but_its_time(
    named: tuple[str, dict[str, Any]], marks: list[int], is_packed: bool
) -> None:
    """Any split, packed or not, decodes to the same call."""
    whole = exchange_of(named[1])
    body = whole.response_body
    sent = gzip.compress(body) if is_packed else body
    edges = sorted({0, len(sent), *(mark % (len(sent) + 1) for mark in marks)})
    split = exchange(
        whole.start.endpoint,
        whole.request,
        [sent[start:end] for start, end in pairwise(edges)],
        target=whole.start.target,
        status=named[1].get("status", 200),
        content_type=named[1].get("content_type"),
        coding="gzip" if is_packed else None,
    )
    assert timeless(decode(split)) == timeless(decode(whole))


def timeless(call: ModelCall) -> ModelCall:
    return replace(call, answer=replace(call.answer, first_content_us=None))


def event(text: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text.encode()


def test_first_content_is_when_its_event_was_whole() -> None:
    said = event("a")
    pieces = [b": hi\n\n", event(""), said[:20], said[20:], event("b")]
    assert decode(exchange("chat.completions", b"{}", pieces)).answer.first_content_us == 3


def test_a_plain_answer_has_no_first_content() -> None:
    body = b'{"choices":[{"message":{"content":"a"}}]}'
    assert decode(exchange("chat.completions", b"{}", [body])).answer.first_content_us is None


def test_a_stream_without_content_has_no_first_content() -> None:
    assert decode(exchange("chat.completions", b"{}", [event("")])).answer.first_content_us is None


def test_no_answer_gives_an_empty_one() -> None:
    call = decode(Exchange(exchange("messages", b"{}", b"").start, b'{"model":"m"}'))
    assert call.model == "m"
    assert call.answer == type(call.answer)()


def test_the_model_is_the_answers_then_the_requests_then_the_paths() -> None:
    def model(answer: str, request: str, target: str) -> str:
        return decode(
            exchange("chat.completions", request.encode(), answer.encode(), target=target)
        ).model

    path = "/openai/deployments/dep/chat/completions"
    assert model('{"model":"a"}', '{"model":"r"}', path) == "a"
    assert model("{}", '{"model":"r"}', path) == "r"
    assert model("{}", "{}", path) == "dep"
    assert model("{}", "{}", "/v1/chat/completions") == "unknown"


def test_an_unknown_endpoint_is_said() -> None:
    call = decode(exchange("images", b"{}", b"{}"))
    assert call.problems == ("no decoder for endpoint 'images'",)


def test_a_failing_decoder_costs_neither_the_call_nor_the_other_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> Any:
        raise RecursionError

    broken = dispatch.Dialect(fail, fail)
    monkeypatch.setitem(dispatch._DIALECTS, "messages", broken)
    call = decode(exchange("messages", b'{"model":"m"}', b"{}", target="/models/p:rawPredict"))
    assert call.model == "p"
    assert call.problems == (
        "request decoder failed: RecursionError",
        "answer decoder failed: RecursionError",
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"", "request has no body"), (b"{", "request is not valid JSON")],
)
def test_a_request_that_cannot_be_read_is_said(body: bytes, said: str) -> None:
    call = decode(exchange("messages", body, b"{}"))
    assert said in call.problems
    assert call.prompt.request_params is None


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_packed_request_is_read(coding: str) -> None:
    pack = {"gzip": gzip.compress, "zstd": zstandard.compress}[coding]
    packed = pack(b'{"model":"m","messages":[]}')
    assert decode(exchange("messages", packed, b"{}", request_coding=coding)).model == "m"


def test_codings_may_stand_in_several_lines() -> None:
    packed = zstandard.compress(gzip.compress(b'{"model":"m","messages":[]}'))
    lines = (("content-encoding", "gzip"), ("content-encoding", "zstd"))
    asked = exchange("chat.completions", packed, packed)
    asked = replace(asked, start=replace(asked.start, headers=lines))
    answered = replace(asked, head=AnswerHead(0, 200, lines))
    call = decode(answered)
    assert (call.prompt.model, call.answer.model, call.problems) == ("m", "m", ())


def test_an_error_is_not_sought_without_end() -> None:
    nested = b"[" * 900 + b"]" * 900
    answer = b'{"model":"m","choices":[' + nested + b',{"message":{"content":"hi"}}]}'
    for body in (nested, answer):
        check(decode(exchange("chat.completions", b"{}", body)))


def test_a_long_error_is_shortened() -> None:
    call = decode(exchange("messages", b"{}", b"x" * 10_000, status=500))
    assert call.answer.error == "x" * 2000 + "…"


@pytest.mark.parametrize(
    ("body", "label", "framing"),
    [
        (b"", "text/event-stream", Framing.EMPTY),
        (b" {}", "text/event-stream", Framing.JSON),
        (b"retry: 1\n\n", None, Framing.SSE),
        (b"unknown: 1\n\n", "text/event-stream", Framing.SSE),
        (b"{}\n{}", None, Framing.LINES),
        (b'{\n"a": 1}', None, Framing.JSON),
        (b"{}", "application/x-ndjson", Framing.LINES),
        (b"[", None, Framing.ARRAY),
        (b"broken", "application/vnd.amazon.eventstream", Framing.EVENT_STREAM),
        (b"<html>", None, Framing.OTHER),
    ],
)
def test_the_first_bytes_tell_the_framing(body: bytes, label: str | None, framing: Framing) -> None:
    assert framing_of(body, label) is framing


def test_every_endpoint_has_a_decoder() -> None:
    paths = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
    paths += ("/m:generateContent", "/m:streamGenerateContent", "/api/chat", "/api/generate")
    paths += ("/v2/chat", "/model/m/converse", "/model/m/converse-stream", "/model/m/invoke")
    paths += ("/model/m/invoke-with-response-stream",)
    found = [classify("POST", path) for path in paths]
    found.append(classify("GET", "/v1/responses/resp_1"))
    names = {endpoint.name for endpoint in found if endpoint}
    assert names | {"realtime"} == set(dispatch._DIALECTS)  # cut from sockets, with no path
