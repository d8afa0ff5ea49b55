"""Anthropic Messages: content blocks, plain or as events that build them.

Also on Vertex and inside Bedrock's `invoke`. Tool results travel as role `user` and are no
person's words. The token counts leave cached input out; here they are put together.

Source: https://docs.anthropic.com/en/api/messages, …/build-with-claude/streaming
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from proxy.call import Json, Prompt, Usage
from proxy.decode.accumulate import Growing
from proxy.decode.failure import error_text
from proxy.decode.framing import Event
from proxy.decode.jsonvalue import BROKEN, at, elements, members, read_json, string, whole, word
from proxy.decode.problems import Problems
from proxy.decode.prompts import joined, last_user_text, messages_of, text_parts, without

_SESSION = re.compile(r"_session_([0-9a-fA-F-]{36})\Z")
_RESULTS = ("_tool_result", "tool_result")


def read_prompt(body: dict[str, Json]) -> Prompt:
    """The request of a message."""
    messages = messages_of(body)
    session, labels = _metadata(members(body.get("metadata")))
    return Prompt(
        model=word(body.get("model")),
        system_prompt=joined(text_parts(body.get("system"))),
        chat_history=tuple(messages),
        user_message=last_user_text(messages, _typed),
        request_params=without(body, "messages", "system"),
        is_stream=body.get("stream") is True,
        session_hint=session,
        labels=labels,
    )


def _typed(message: dict[str, Json]) -> list[str] | None:
    if message.get("role") != "user":
        return None
    content = message.get("content")
    blocks = elements(content)
    texts = text_parts(content)
    if not texts and any(string(at(b, "type")).endswith(_RESULTS) for b in blocks):
        return None
    return texts


def _metadata(metadata: dict[str, Json]) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    """Session and labels in `metadata.user_id`.

    Claude Code puts the session there: as JSON, formerly as `user_HASH_account_ID_session_UUID`.
    """
    user = string(metadata.get("user_id"))
    if user.startswith("{"):
        value = read_json(user.encode("utf-8", "surrogatepass"), Problems())
        if value is not BROKEN and (session := word(at(value, "session_id"))):
            return session, ()
    if found := _SESSION.search(user):
        return found[1], ()
    return None, (("user", user),) if user else ()


def read_answer(events: Iterable[Event], answer: Growing) -> None:
    """A message, whole or as events."""
    usage: dict[str, Json] = {}
    open_blocks: set[int] = set()
    done_blocks = 0
    for event in events:
        answer.reach(event.end)
        value = members(event.value)
        kind = string(value.get("type")) or event.name
        index = whole(value.get("index")) or 0
        if kind in ("message", "message_start"):
            _read_message(members(value.get("message")) or value, usage, answer)
        elif kind == "content_block_start":
            open_blocks.add(index)
            _read_block(members(value.get("content_block")), index, answer)
        elif kind == "content_block_delta":
            _read_delta(members(value.get("delta")), index, answer)
        elif kind == "content_block_stop":
            open_blocks.discard(index)
            done_blocks += 1
        elif kind == "message_delta":
            answer.finish(word(at(value, "delta", "stop_reason")))
            _merge(usage, value.get("usage"), answer)
            answer.is_usage_final = True
        elif kind == "message_stop":
            answer.is_terminated = True
        elif kind == "error":
            answer.fail(error_text(value.get("error")) or "error without a message")
    answer.has_finished_item = answer.is_plain or (done_blocks > 0 and not open_blocks)


def _read_message(message: dict[str, Json], usage: dict[str, Json], answer: Growing) -> None:
    answer.model = word(message.get("model")) or answer.model
    answer.response_id = word(message.get("id")) or answer.response_id
    for index, block in enumerate(elements(message.get("content"))):
        _read_block(members(block), index, answer)
    answer.finish(word(message.get("stop_reason")))
    _merge(usage, message.get("usage"), answer)


def _read_block(block: dict[str, Json], index: int, answer: Growing) -> None:
    kind = string(block.get("type"))
    if kind == "text":
        answer.say(string(block.get("text")))
    elif kind == "thinking":
        answer.think(string(block.get("thinking")), index)
    elif kind.endswith("tool_use"):
        call = answer.call(index)
        call.id, call.name = word(block.get("id")), string(block.get("name"))
        call.value = block.get("input")
        call.is_server = kind != "tool_use"  # server_tool_use, mcp_tool_use


def _read_delta(delta: dict[str, Json], index: int, answer: Growing) -> None:
    kind = delta.get("type")
    if kind == "text_delta":
        answer.say(string(delta.get("text")))
    elif kind == "thinking_delta":
        answer.think(string(delta.get("thinking")), index)
    elif kind == "input_json_delta":
        if index in answer.choice().calls:
            answer.call(index).pieces.append(string(delta.get("partial_json")))
        else:
            answer.problems.add("tool input for a block that is no tool call")


def _merge(usage: dict[str, Json], reported: Json, answer: Growing) -> None:
    """Later reports replace the counts they name; the first holds the input, the last the rest."""
    found = {name: value for name, value in members(reported).items() if value is not None}
    if found:
        usage.update(found)
        answer.usage = _usage(dict(usage))


def _usage(usage: dict[str, Json]) -> Usage:
    fresh, completion = whole(usage.get("input_tokens")), whole(usage.get("output_tokens"))
    read, written = (
        whole(usage.get(f"cache_{kind}_input_tokens")) for kind in ("read", "creation")
    )
    prompt = None if fresh is None else fresh + (read or 0) + (written or 0)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=None if None in (prompt, completion) else (prompt or 0) + (completion or 0),
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=whole(at(usage, "output_tokens_details", "thinking_tokens")),
        raw=usage,
    )
