"""Streams that nobody recorded: what the SDKs make of them, and what the decoders do.

Answers are drawn at random, written as their provider would stream them, cut into deltas anywhere,
with the deltas of parallel choices and calls in turns. The SDK's own accumulator and the decoder
must come to the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import anthropic
import httpx2
import openai
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState

from proxy.call import Answer
from proxy.decode.dispatch import decode
from tests.decode.cases import exchange

Json = dict[str, Any]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS
OBJECTS = st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=3), max_size=4)
COUNTS = st.integers(0, 5000)
CUTS = st.lists(st.integers(0, 40), max_size=4)


def pieces(text: str, cuts: Iterable[int]) -> list[str]:
    """The text cut at these places; an empty text is one empty piece."""
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def answered(body: bytes) -> httpx2.Client:
    """A client of the provider that answers everything with this stream."""
    head = {"content-type": "text/event-stream"}
    return httpx2.Client(
        transport=httpx2.MockTransport(lambda _: httpx2.Response(200, headers=head, content=body))
    )


def decoded(endpoint: str, body: bytes) -> Answer:
    call = decode(exchange(endpoint, b'{"model":"asked"}', body, content_type="text/event-stream"))
    assert call.problems == ()
    assert call.answer.is_terminated
    return call.answer


# Anthropic Messages


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Json, list[Json]]:
    """A content block as it begins, and its deltas."""
    kind = draw(st.sampled_from(["text", "thinking", "redacted", "tool_use", "server", "result"]))
    match kind:
        case "text":
            cited = {"type": "char_location", "cited_text": "x", "document_index": 0}
            cited |= {"document_title": None, "start_char_index": 0, "end_char_index": 1}
            deltas = [
                {"type": "text_delta", "text": piece} for piece in pieces(draw(TEXTS), draw(CUTS))
            ]
            if draw(st.booleans()):
                deltas.insert(0, {"type": "citations_delta", "citation": cited})
            return {"type": "text", "text": ""}, deltas
        case "thinking":
            text = draw(TEXTS.filter(str.strip))  # an empty block leaves no blank line in a row
            deltas = [
                {"type": "thinking_delta", "thinking": piece} for piece in pieces(text, draw(CUTS))
            ]
            begun = {"type": "thinking", "thinking": "", "signature": ""}
            return begun, [*deltas, {"type": "signature_delta", "signature": "c2ln"}]
        case "redacted":
            return {"type": "redacted_thinking", "data": "AAAA"}, []
        case "result":
            return {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, []
    given_input = draw(OBJECTS)
    text = json.dumps(given_input, ensure_ascii=draw(st.booleans())) if given_input else ""
    name = draw(NAMES) if kind == "tool_use" else "web_search"
    type_ = "tool_use" if kind == "tool_use" else "server_tool_use"
    begun = {"type": type_, "id": draw(NAMES), "name": name, "input": {}}
    return begun, [
        {"type": "input_json_delta", "partial_json": piece} for piece in pieces(text, draw(CUTS))
    ]


@st.composite
def messages(draw: st.DrawFn) -> list[Json]:
    """The events of a message."""
    usage = {"input_tokens": draw(COUNTS), "output_tokens": 1}
    usage |= {"cache_read_input_tokens": draw(COUNTS), "cache_creation_input_tokens": 0}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": draw(NAMES)}
    head |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    events: list[Json] = [{"type": "message_start", "message": head}, {"type": "ping"}]
    for index, (begun, deltas) in enumerate(draw(st.lists(blocks(), max_size=5))):
        events.append({"type": "content_block_start", "index": index, "content_block": begun})
        events += [{"type": "content_block_delta", "index": index, "delta": d} for d in deltas]
        events.append({"type": "content_block_stop", "index": index})
    reason = draw(st.sampled_from(["end_turn", "tool_use", "max_tokens", "pause_turn", "refusal"]))
    delta = {"stop_reason": reason, "stop_sequence": None}
    events.append(
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": draw(COUNTS)}}
    )
    return [*events, {"type": "message_stop"}]


@given(messages(), st.sampled_from(["\n", "\r\n"]))
def test_messages_are_read_as_the_sdk_accumulates_them(events: list[Json], line: str) -> None:
    """decode(stream) = get_final_message(stream), in every column."""
    body = "".join(
        f"event: {event['type']}{line}data: {json.dumps(event)}{line}{line}" for event in events
    ).encode()
    with (
        anthropic.Anthropic(api_key="none", http_client=answered(body)) as client,
        client.messages.stream(
            model="asked", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]
        ) as stream,
    ):
        said = stream.get_final_message()
    found = decoded("messages", body)
    assert (found.text or "") == "".join(b.text for b in said.content if b.type == "text")
    thoughts = [block.thinking for block in said.content if block.type == "thinking"]
    assert (found.thoughts or "") == "\n\n".join(thoughts)
    assert [(call.id, call.name, call.arguments, call.is_server) for call in found.tool_calls] == [
        (block.id, block.name, block.input, block.type == "server_tool_use")
        for block in said.content
        if block.type in ("tool_use", "server_tool_use")
    ]
    assert (found.finish_reason, found.model) == (said.stop_reason, said.model)
    assert found.usage is not None
    read = said.usage.cache_read_input_tokens or 0
    assert found.usage.prompt_tokens == said.usage.input_tokens + read
    assert found.usage.completion_tokens == said.usage.output_tokens


# Chat Completions


@st.composite
def choices(draw: st.DrawFn, index: int) -> list[Json]:
    """The deltas of one choice, in order."""
    member = draw(st.sampled_from(["content", "refusal"]))
    deltas: list[Json] = [{"role": "assistant", member: ""}]
    deltas += [{member: piece} for piece in pieces(draw(TEXTS), draw(CUTS))]
    calls = []
    for position in range(draw(st.integers(0, 3))):
        arguments = pieces(json.dumps(draw(OBJECTS)), draw(CUTS))
        function = {"name": draw(NAMES), "arguments": ""}
        begun = {"id": f"call_{position}", "type": "function", "function": function}
        calls.append(
            [{"index": position} | begun]
            + [{"index": position, "function": {"arguments": piece}} for piece in arguments]
        )
    deltas += [{"tool_calls": [call]} for call in draw(in_turns(calls))]
    reason = "tool_calls" if calls else draw(st.sampled_from(["stop", "length"]))
    found = [{"index": index, "delta": delta, "finish_reason": None} for delta in deltas]
    return [*found, {"index": index, "delta": {}, "finish_reason": reason}]


@st.composite
def in_turns(draw: st.DrawFn, lists: list[list[Json]]) -> list[Json]:
    """The elements of all lists mixed, each list's in its order. First come all first ones."""
    left = [list(one) for one in lists]
    found = [one.pop(0) for one in left]
    while left := [one for one in left if one]:
        found.append(draw(st.sampled_from(left)).pop(0))
    return found


@st.composite
def completions(draw: st.DrawFn) -> list[Json]:
    """The chunks of a completion with some choices."""
    count = draw(st.integers(1, 3))
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": draw(NAMES)}
    usage = {"prompt_tokens": draw(COUNTS), "completion_tokens": draw(COUNTS), "total_tokens": 9}
    parts = draw(in_turns([draw(choices(index)) for index in range(count)]))
    chunks = [head | {"choices": [part]} for part in parts]
    return [*chunks, head | {"choices": [], "usage": usage}]


def chunks_of(chunks: list[Json]) -> Iterator[str]:
    yield from (f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    yield "data: [DONE]\n\n"


@given(completions())
def test_completions_are_read_as_the_sdk_accumulates_them(chunks: list[Json]) -> None:
    """decode(stream) = get_final_completion(stream), in every choice."""
    body = "".join(chunks_of(chunks)).encode()
    with (
        openai.OpenAI(api_key="none", http_client=answered(body)) as client,
        client.chat.completions.create(
            model="asked", messages=[{"role": "user", "content": "Hi"}], stream=True
        ) as stream,
    ):
        state = ChatCompletionStreamState()
        for chunk in stream:
            state.handle_chunk(chunk)
        said = state.current_completion_snapshot
    found = decoded("chat.completions", body)
    calls = [call.as_json() for call in found.tool_calls]
    first: Json = {"index": 0, "text": found.text, "finish_reason": found.finish_reason}
    read = [first | ({"tool_calls": calls} if calls else {}), *found.choices]
    assert [without_raw(choice) for choice in read] == [
        {
            "index": choice.index,
            "text": (choice.message.content or "") + (choice.message.refusal or "") or None,
            "finish_reason": choice.finish_reason,
            "tool_calls": [
                (call.id, call.function.name, json.loads(call.function.arguments))
                for call in choice.message.tool_calls or ()
            ],
        }
        for choice in sorted(said.choices, key=lambda choice: choice.index)
    ]
    assert found.usage is not None
    assert said.usage is not None
    assert found.usage.prompt_tokens == said.usage.prompt_tokens
    assert found.usage.total_tokens == said.usage.total_tokens
    assert found.model == said.model


def without_raw(choice: Any) -> Json:
    calls = choice.get("tool_calls", ())
    told = [(call["id"], call["name"], call["arguments"]) for call in calls]
    return {**choice, "tool_calls": told}
