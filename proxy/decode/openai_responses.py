"""OpenAI Responses: a list of output items, plain or as events that build it.

The last event carries the whole response again and wins; where it is missing or its list is empty
(as some backends of coding agents send it), the items are taken from the events, unfinished ones
from their deltas. Items that the client executes are plain tool calls; what the provider runs by
itself is marked as such.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from proxy.call import Json, Prompt, Usage
from proxy.decode.accumulate import Growing
from proxy.decode.failure import error_text, reported_error
from proxy.decode.framing import DONE, Event
from proxy.decode.jsonvalue import at, elements, members, string, whole, word
from proxy.decode.prompts import (
    joined,
    last_user_text,
    openai_labels,
    openai_session,
    split_system,
    text_parts,
    user_message,
    without,
)
from proxy.decode.usage import usage_of

_FINAL_EVENTS = frozenset(
    f"response.{status}" for status in ("completed", "incomplete", "failed", "cancelled")
)
# Tools of the provider's own making that the client runs.
_CLIENT_TOOLS = frozenset(
    {"local_shell_call", "shell_call", "apply_patch_call", "computer_call", "function_call"}
    | {"custom_tool_call"}
)
_OF_THE_MESSAGE = ("event_id", "stream_id")  # not of the request that it carries
_ARGUMENTS = ("arguments", "input", "action", "actions", "operation", "queries", "code")


def read_prompt(body: dict[str, Json]) -> Prompt:
    """The request of a response, over HTTP or as the message of a WebSocket that asks for it."""
    if body.get("type") == "response.create":
        body = without(body | members(body.get("response")), "type", "response", *_OF_THE_MESSAGE)
        body["stream"] = True
    given = body.get("input")
    items = [user_message(given)] if isinstance(given, str) else elements(given)
    system, history = split_system(items)
    instructions = body.get("instructions")
    if isinstance(instructions, list):
        texts = [part for item in instructions for part in text_parts(at(item, "content"))]
        instructions = joined(texts)
    return Prompt(
        model=word(body.get("model")),
        system_prompt=joined((string(instructions), system)),
        chat_history=history,
        user_message=last_user_text(history, _typed),
        request_params=without(body, "input", "instructions"),
        is_stream=body.get("stream") is True,
        is_partial_context=bool(body.get("previous_response_id") or body.get("conversation")),
        session_hint=openai_session(body),
        labels=openai_labels(body),
    )


def _typed(item: dict[str, Json]) -> list[str] | None:
    return text_parts(item.get("content")) if item.get("role") == "user" else None


@dataclass(slots=True)
class _Item:
    """An output item and the deltas that came for it."""

    value: dict[str, Json] = field(default_factory=dict)
    deltas: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    is_done: bool = False

    def whole(self) -> dict[str, Json]:
        """The item as it would look if it had ended here."""
        if self.is_done or not self.deltas:
            return self.value
        item = dict(self.value)
        parts: dict[str, list[Json]] = {}
        for (kind, _), pieces in self.deltas.items():
            text = "".join(pieces)
            if kind in _PART_OF_DELTA:
                member, part_type, name = _PART_OF_DELTA[kind]
                parts.setdefault(member, []).append({"type": part_type, name: text})
            else:
                item[_ARGUMENTS_OF_DELTA[kind]] = text
        return item | parts


# Deltas that build a part of a list in the item: (the list, the part's type, its text).
_PART_OF_DELTA = {
    "output_text": ("content", "output_text", "text"),
    "refusal": ("content", "refusal", "refusal"),
    "reasoning_text": ("content", "reasoning_text", "text"),
    "reasoning_summary_text": ("summary", "summary_text", "text"),
}
# Deltas that build a member of the item.
_ARGUMENTS_OF_DELTA = {
    "function_call_arguments": "arguments",
    "mcp_call_arguments": "arguments",
    "custom_tool_call_input": "input",
    "code_interpreter_call_code": "code",
}


def read_answer(events: Iterable[Event], answer: Growing) -> None:
    """A response, whole or as events."""
    items: dict[int, _Item] = {}
    response: dict[str, Json] = {}
    for event in events:
        answer.reach(event.end)
        if event.name == DONE:
            continue
        value = members(event.value)
        kind = string(value.get("type")) or event.name
        if "response" in value or value.get("object") == "response":
            response = members(value.get("response")) or value
        if kind in _FINAL_EVENTS or response is value:
            answer.is_terminated = True
        elif kind == "error" or (not kind and reported_error(value)):
            answer.fail(error_text(value) or "error without a message")
        elif kind.startswith(
            "response."
        ):  # backends mix in events of their own: rate limits, pings
            _read_event(kind.removeprefix("response."), value, items, answer)
    _finish(response, items, answer)


def _read_event(
    kind: str, value: dict[str, Json], items: dict[int, _Item], answer: Growing
) -> None:
    position = whole(value.get("output_index"))
    if position is None:
        position = max(items, default=0)
    if kind in ("output_item.added", "output_item.done"):
        item = items.setdefault(position, _Item())
        item.value = members(value.get("item"))
        item.is_done = kind.endswith(".done")
        if item.value.get("type") not in ("message", "reasoning"):
            answer.touch()
    stem = kind.removesuffix(".delta")
    if stem != kind and (stem in _PART_OF_DELTA or stem in _ARGUMENTS_OF_DELTA):
        part = whole(value.get("content_index"))
        if part is None:
            part = whole(value.get("summary_index")) or 0
        item = items.setdefault(position, _Item({"type": _assumed_type(stem)}))
        item.deltas.setdefault((stem, part), []).append(string(value.get("delta")))
        answer.touch()


def _assumed_type(stem: str) -> str:
    """The type of an item whose beginning was not seen."""
    if stem in _ARGUMENTS_OF_DELTA:
        return stem.removesuffix("_arguments").removesuffix("_input").removesuffix("_code")
    return "reasoning" if stem.startswith("reasoning") else "message"


def _finish(response: dict[str, Json], items: dict[int, _Item], answer: Growing) -> None:
    answer.model = word(response.get("model"))
    answer.response_id = word(response.get("id"))
    if members(response.get("usage")):
        answer.usage = _usage(response.get("usage"))
    final = elements(response.get("output")) if answer.is_terminated else []
    built: list[Json] = [item.whole() for _, item in sorted(items.items())]
    for position, item in enumerate(final or built):
        _read_item(members(item), position, answer)
    if answer.is_terminated:
        reason = word(at(response, "incomplete_details", "reason"))
        answer.finish(reason or word(response.get("status")))
    is_open = any(not item.is_done for item in items.values())
    answer.has_finished_item = bool(final) or (bool(items) and not is_open)
    if response.get("status") == "failed" or reported_error(response):
        answer.fail(reported_error(response) or "response failed")


def _read_item(item: dict[str, Json], position: int, answer: Growing) -> None:
    kind = string(item.get("type"))
    if kind == "message" or (not kind and item.get("role") == "assistant"):
        for part in elements(item.get("content")):
            answer.say(string(at(part, "text")))
            answer.refuse(string(at(part, "refusal")))
    elif kind == "reasoning":
        _read_reasoning(item, position, answer)
    elif kind.endswith("_call") or kind == "mcp_approval_request":
        if item.get("result") is not None and kind == "image_generation_call":
            answer.show(dict(item))
        _read_call(item, kind, answer)


def _read_reasoning(item: dict[str, Json], position: int, answer: Growing) -> None:
    """The full text where the provider shows it, else its summary."""
    parts = elements(item.get("content")) or elements(item.get("summary"))
    for number, part in enumerate(parts):
        answer.think(string(at(part, "text")), (position, number))


def _read_call(item: dict[str, Json], kind: str, answer: Growing) -> None:
    call = answer.begin_call()
    call.id = word(item.get("call_id")) or word(item.get("id"))
    call.name = word(item.get("name")) or kind.removesuffix("_call")
    call.is_server = kind not in _CLIENT_TOOLS and item.get("execution") != "client"
    found = next((name for name in _ARGUMENTS if item.get(name) is not None), None)
    given = item.get(found) if found else None
    if isinstance(given, str) and found in ("arguments", "input"):
        call.pieces.append(given)
    else:
        call.value = given if found in (None, "arguments", "action") else {str(found): given}


def _usage(raw: Json) -> Usage:
    usage = members(raw)
    given = usage.get("input_tokens_details") or usage.get("input_token_details")  # Realtime's
    made = usage.get("output_tokens_details") or usage.get("output_token_details")
    return usage_of(
        raw,
        whole(usage.get("input_tokens")),
        whole(usage.get("output_tokens")),
        whole(usage.get("total_tokens")),
        cached=whole(at(given, "cached_tokens")),
        cache_write=whole(at(given, "cache_write_tokens")),
        reasoning=whole(at(made, "reasoning_tokens")),
    )
