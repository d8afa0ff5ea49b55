"""Anthropic Messages: content blocks, plain or as events that build them.

Also on Vertex and inside Bedrock's `invoke`. Tool results travel as role `user` and are no
person's words. The token counts leave cached input out; here they are put together.

Source: https://docs.anthropic.com/en/api/messages, …/build-with-claude/streaming
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from proxy.call import Json, Prompt, Usage
from proxy.decode.accumulate import Growing
from proxy.decode.failure import error_text
from proxy.decode.framing import Event
from proxy.decode.jsonvalue import BROKEN, at, elements, members, read_json, string, whole, word
from proxy.decode.problems import Problems
from proxy.decode.prompts import joined, last_user_text, messages_of, text_parts, without
from proxy.decode.usage import known_sum, usage_of

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


@dataclass(slots=True)
class _Message:
    """What of a message is not in the answer itself: its blocks' states and usage reports."""

    started: int = 0
    at_index: dict[int, int] = field(default_factory=dict)  # the block last started there
    open_blocks: set[int] = field(default_factory=set)
    done_blocks: int = 0
    usage: dict[str, Json] = field(default_factory=dict)

    def start(self, index: int) -> int:
        """A new block. Indexes are used again where two messages were glued into one stream, and
        by gateways that number every block 0."""
        self.started += 1
        self.at_index[index] = self.started
        return self.started


def read_answer(events: Iterable[Event], answer: Growing) -> None:
    """A message, whole or as events."""
    message = _Message()
    for event in events:
        answer.reach(event.end)
        value = members(event.value)
        _read_event(string(value.get("type")) or event.name, value, message, answer)
    is_between = message.done_blocks > 0 and not message.open_blocks
    answer.has_finished_item = answer.is_plain or is_between


def _read_event(kind: str, value: dict[str, Json], message: _Message, answer: Growing) -> None:
    index = whole(value.get("index")) or 0
    if kind in ("message", "message_start"):
        _read_message(members(value.get("message")) or value, message, answer)
    elif kind == "content_block_start":
        message.open_blocks.add(index)
        _read_block(members(value.get("content_block")), message.start(index), answer)
    elif kind == "content_block_delta":
        block = message.at_index.get(index) or message.start(index)
        _read_delta(members(value.get("delta")), block, answer)
    elif kind == "content_block_stop":
        message.open_blocks.discard(index)
        message.done_blocks += 1
    elif kind == "message_delta":
        answer.finish(word(at(value, "delta", "stop_reason")))
        _merge(value.get("usage"), message, answer)
        answer.is_usage_final = True
    elif kind == "message_stop":
        answer.is_terminated = True
    elif kind == "error":
        answer.fail(error_text(value.get("error")) or "error without a message")


def _read_message(value: dict[str, Json], message: _Message, answer: Growing) -> None:
    answer.model = word(value.get("model")) or answer.model
    answer.response_id = word(value.get("id")) or answer.response_id
    for index, block in enumerate(elements(value.get("content"))):
        _read_block(members(block), message.start(index), answer)
    answer.finish(word(value.get("stop_reason")))
    _merge(value.get("usage"), message, answer)


def _read_block(block: dict[str, Json], key: Hashable, answer: Growing) -> None:
    kind = string(block.get("type"))
    if kind == "text":
        answer.say(string(block.get("text")))
    elif kind == "thinking":
        answer.think(string(block.get("thinking")), key)
    elif kind.endswith("tool_use"):
        call = answer.begin_call(key)
        call.id, call.name = word(block.get("id")), string(block.get("name"))
        call.value = block.get("input")
        call.is_server = kind != "tool_use"  # server_tool_use, mcp_tool_use


def _read_delta(delta: dict[str, Json], key: Hashable, answer: Growing) -> None:
    kind = delta.get("type")
    if kind == "text_delta":
        answer.say(string(delta.get("text")))
    elif kind == "thinking_delta":
        answer.think(string(delta.get("thinking")), key)
    elif kind == "input_json_delta" and key in answer.choice().latest:
        # Before any text an empty object stands in for the input; it counts only if none comes.
        answer.call(key).pieces.append(string(delta.get("partial_json")))


def _merge(reported: Json, message: _Message, answer: Growing) -> None:
    """Later reports replace the counts they name; the first holds the input, the last the rest."""
    found = {name: value for name, value in members(reported).items() if value is not None}
    if found:
        message.usage.update(found)
        answer.usage = _usage(dict(message.usage))


def _usage(usage: dict[str, Json]) -> Usage:
    read = whole(usage.get("cache_read_input_tokens"))
    written = whole(usage.get("cache_creation_input_tokens"))
    return usage_of(
        usage,
        known_sum(whole(usage.get("input_tokens")), read, written),
        whole(usage.get("output_tokens")),
        cached=read,
        cache_write=written,
        reasoning=whole(at(usage, "output_tokens_details", "thinking_tokens")),
    )
