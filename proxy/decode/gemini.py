"""Gemini `generateContent` and `streamGenerateContent`, on both Google hosts.

A stream is a series of whole responses, each with the parts that are new, as SSE or as one JSON
array; a plain answer is a series of one. Enums may come as integers, which the hosts number
differently.

Sources: https://ai.google.dev/api/generate-content, google/ai/generativelanguage/v1beta and
google/cloud/aiplatform/v1 of https://github.com/googleapis/googleapis
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.call import Json, Prompt, Usage
from proxy.decode.accumulate import Growing
from proxy.decode.failure import reported_error
from proxy.decode.framing import DONE, Event
from proxy.decode.jsonvalue import at, elements, members, string, whole, word
from proxy.decode.partial_arguments import set_partial
from proxy.decode.prompts import (
    joined,
    last_user_text,
    messages_of,
    text_parts,
    user_message,
    without,
)
from proxy.decode.usage import known_sum, usage_of


@dataclass(frozen=True, slots=True)
class _Enums:
    """What a host's integers stand for: Candidate.FinishReason, PromptFeedback.BlockReason."""

    finish: tuple[str, ...]
    block: tuple[str, ...]


_FIRST_REASONS = (
    *("FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER"),
)
_REFUSED = ("BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MALFORMED_FUNCTION_CALL")
_FIRST_BLOCKS = ("UNSPECIFIED", "SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT")
_GEMINI = _Enums(
    (
        *(*_FIRST_REASONS, "LANGUAGE", *_REFUSED, "IMAGE_SAFETY", "UNEXPECTED_TOOL_CALL"),
        *("TOO_MANY_TOOL_CALLS", "IMAGE_PROHIBITED_CONTENT", "IMAGE_OTHER", "NO_IMAGE"),
        "IMAGE_RECITATION",
    ),
    (*_FIRST_BLOCKS, "IMAGE_SAFETY"),
)
_VERTEX = _Enums(
    (*_FIRST_REASONS, *_REFUSED, "MODEL_ARMOR"), (*_FIRST_BLOCKS, "MODEL_ARMOR", "JAILBREAK")
)
_SYSTEM_NAMES = ("systemInstruction", "system_instruction")


def read_prompt(body: dict[str, Json]) -> Prompt:
    """The request of a generation. Whether it asks for a stream is said by the path alone."""
    contents = body.get("contents")
    history = (
        [user_message(contents)] if isinstance(contents, str) else messages_of(body, "contents")
    )
    system = next((body[name] for name in _SYSTEM_NAMES if body.get(name)), None)
    return Prompt(
        model=(word(body.get("model")) or "").removeprefix("models/") or None,
        system_prompt=joined(text_parts(at(system, "parts") or system)),
        chat_history=tuple(history),
        user_message=last_user_text(history, _typed),
        request_params=without(body, "contents", *_SYSTEM_NAMES),
    )


def _typed(content: dict[str, Json]) -> list[str] | None:
    """A content without a role is the user's; one with function responses only is no person's."""
    if content.get("role") not in (None, "", "user"):
        return None
    parts = messages_of(content, "parts")
    texts = text_parts(parts) or text_parts(content.get("content"))
    is_result = any(
        at(p, name) for p in parts for name in ("functionResponse", "function_response")
    )
    return None if is_result and not texts else texts


def read_answer(events: Iterable[Event], answer: Growing) -> None:
    """A response of the Gemini API, or a series of partial ones."""
    _read_answer(events, answer, _GEMINI)


def read_vertex_answer(events: Iterable[Event], answer: Growing) -> None:
    """The same of Vertex AI."""
    _read_answer(events, answer, _VERTEX)


def _read_answer(events: Iterable[Event], answer: Growing, enums: _Enums) -> None:
    for event in events:
        answer.reach(event.end)
        if event.name == DONE:
            continue
        value = members(event.value)
        answer.model = word(value.get("modelVersion")) or answer.model
        answer.response_id = word(value.get("responseId")) or answer.response_id
        for position, candidate in enumerate(elements(value.get("candidates"))):
            index = whole(at(candidate, "index"))
            index = position if index is None else index
            _read_candidate(members(candidate), index, answer)
            answer.finish(_enum(at(candidate, "finishReason"), enums.finish), index)
        answer.finish(_enum(at(value, "promptFeedback", "blockReason"), enums.block))
        if metadata := members(value.get("usageMetadata")):
            # The last of a stream may tell no count at all, but how the call was served.
            usage = _usage(metadata)
            answer.usage = usage if usage.total_tokens is not None else answer.usage or usage
        if error := reported_error(event.value):
            answer.fail(error)
    answer.has_finished_item = answer.is_terminated = answer.all_finished()


def _read_candidate(candidate: dict[str, Json], index: int, answer: Growing) -> None:
    answer.choice(index)
    for number, part in enumerate(elements(at(candidate, "content", "parts"))):
        # In a stream the next event goes on with the block of the last; in a plain answer each
        # part is a block of its own.
        _read_part(members(part), number if answer.is_plain else None, index, answer)


def _read_part(part: dict[str, Json], block: int | None, index: int, answer: Growing) -> None:
    if part.get("thought") is True:
        answer.think(string(part.get("text")), block, index)
    else:
        answer.say(string(part.get("text")), index)
    if isinstance(part.get("functionCall"), dict):
        _read_function_call(members(part.get("functionCall")), index, answer)
    if code := members(part.get("executableCode")):
        call = answer.begin_call(None, index)
        call.id, call.name, call.is_server = word(code.get("id")), "code_execution", True
        call.value = without(code, "id")
    if tool := members(part.get("toolCall")):
        call = answer.begin_call(None, index)
        call.id, call.name, call.is_server = word(tool.get("id")), _tool_name(tool), True
        call.value = tool.get("args")
    if part.get("inlineData"):
        answer.show(dict(part))


def _read_function_call(function: dict[str, Json], index: int, answer: Growing) -> None:
    """A call, or a piece of one: a piece has no name and belongs to the call before it."""
    calls = answer.choice(index).calls
    name = string(function.get("name"))
    call = answer.begin_call(None, index) if name or not calls else calls[-1]
    call.id, call.name = call.id or word(function.get("id")), call.name or name
    if function.get("args") is not None:
        call.value = function.get("args")
    for partial in elements(function.get("partialArgs")):
        if not isinstance(call.value, dict):
            call.value = {}
        if not set_partial(call.value, partial):
            answer.problems.add("streamed function argument cannot be placed")


def _tool_name(tool: dict[str, Json]) -> str:
    return (word(tool.get("toolType")) or word(tool.get("name")) or "tool").lower()


def _enum(value: Json, names: tuple[str, ...]) -> str | None:
    number = whole(value)
    if number is None:
        return word(value)
    return names[number] if 0 <= number < len(names) else str(number)


def _usage(raw: Json) -> Usage:
    usage = members(raw)
    thoughts = whole(usage.get("thoughtsTokenCount"))
    return usage_of(
        raw,
        whole(usage.get("promptTokenCount")),
        known_sum(whole(usage.get("candidatesTokenCount")), thoughts),
        whole(usage.get("totalTokenCount")),
        cached=whole(usage.get("cachedContentTokenCount")),
        reasoning=thoughts,
    )
