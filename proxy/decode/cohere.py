"""Cohere v2 chat: a message of content blocks and tool calls, plain or as events that build it.

The plan that the model writes before it calls tools (`tool_plan`) counts as thoughts.

Source: https://docs.cohere.com/reference/chat, …/reference/chat-stream
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.call import Json, Prompt, Usage
from proxy.decode.accumulate import Growing
from proxy.decode.failure import error_text, reported_error
from proxy.decode.framing import DONE, Event
from proxy.decode.jsonvalue import at, elements, members, string, whole, word
from proxy.decode.prompts import (
    chat_prompt,
    text_parts,
)
from proxy.decode.usage import usage_of


def read_prompt(body: dict[str, Json]) -> Prompt:
    """The request of a chat."""
    return chat_prompt(body, is_stream=body.get("stream") is True)


def read_answer(events: Iterable[Event], answer: Growing) -> None:
    """A chat answer, whole or as events."""
    for event in events:
        answer.reach(event.end)
        if event.name == DONE:
            answer.is_terminated = True
            continue
        value = members(event.value)
        kind = string(value.get("type")) or event.name
        index = whole(value.get("index")) or 0
        message = members(at(value, "delta", "message"))
        if kind in ("content-start", "content-delta"):
            _read_block(message.get("content"), index, answer)
        elif kind in ("tool-call-start", "tool-call-delta"):
            _read_tool_call(message.get("tool_calls"), index, answer)
        elif kind == "tool-plan-delta":
            answer.think(string(message.get("tool_plan")), "plan")
        elif kind == "message-end":
            _read_end(members(value.get("delta")), answer)
        elif kind in ("", "message-start"):
            answer.response_id = word(value.get("id")) or answer.response_id
            _read_message(members(value.get("message")), answer)
            _read_end(value, answer)
        if error := reported_error(value) or reported_error(value.get("delta")):
            answer.fail(error)
        elif not answer.is_plain and not kind:
            answer.fail(error_text(value) or "error without a message")


def _read_message(message: dict[str, Json], answer: Growing) -> None:
    answer.think(string(message.get("tool_plan")), "plan")
    content = message.get("content")
    blocks = [content] if isinstance(content, str) else elements(content)
    for index, block in enumerate(blocks):
        _read_block(block, index, answer)
    for index, call in enumerate(elements(message.get("tool_calls"))):
        _read_tool_call(call, index, answer)


def _read_block(block: Json, index: int, answer: Growing) -> None:
    answer.think(string(at(block, "thinking")), index)
    answer.say("".join(text_parts(block)))


def _read_tool_call(delta: Json, index: int, answer: Growing) -> None:
    call = answer.call(index)
    call.id = call.id or word(at(delta, "id"))
    call.name = call.name or string(at(delta, "function", "name"))
    arguments = at(delta, "function", "arguments")
    if isinstance(arguments, str):
        call.pieces.append(arguments)
    elif arguments is not None:
        call.value = arguments


def _read_end(end: dict[str, Json], answer: Growing) -> None:
    reason = word(end.get("finish_reason"))
    answer.finish(reason)
    if reason:
        answer.is_terminated = answer.has_finished_item = True
    if members(end.get("usage")):
        answer.usage = _usage(end.get("usage"))


def _usage(raw: Json) -> Usage:
    """Tokens as the model counted them; what is billed (without templates) only if that is all."""
    counted = members(at(raw, "tokens")) or members(at(raw, "billed_units"))
    return usage_of(
        raw,
        whole(counted.get("input_tokens")),
        whole(counted.get("output_tokens")),
        cached=whole(at(raw, "cached_tokens")),
    )
