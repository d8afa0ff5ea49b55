"""OpenAI Chat Completions, and the many servers that speak it with an accent.

One reading serves plain answers (`message`) and chunks (`delta`). Known accents: usage beside
choices, in `x_groq` or inside a choice; a message beside each delta; thoughts as
`reasoning_content`, `reasoning`, `thinking`, `reasoning_details` or as parts of the content; tool
calls without an index, or all with index 0; function calls of the first generation; `[DONE]`
missing; an error as a chunk.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable

from proxy.call import Json, Prompt, Usage
from proxy.decode.accumulate import Growing, PartialCall
from proxy.decode.failure import error_text, reported_error
from proxy.decode.framing import DONE, Event
from proxy.decode.jsonvalue import at, elements, first_count, members, string, whole, word
from proxy.decode.prompts import (
    chat_prompt,
    openai_labels,
    openai_session,
    text_parts,
)
from proxy.decode.usage import usage_of

# OpenRouter; Alibaba; LiteLLM
_CACHE_WRITES = ("cache_write_tokens", "cache_creation_input_tokens", "cache_creation_tokens")


def read_prompt(body: dict[str, Json]) -> Prompt:
    """The request of a chat completion."""
    return chat_prompt(
        body,
        is_stream=body.get("stream") is True,
        session_hint=openai_session(body),
        labels=openai_labels(body),
    )


def read_answer(events: Iterable[Event], answer: Growing) -> None:
    """A completion, whole or in chunks."""
    for event in events:
        answer.reach(event.end)
        if event.name == DONE:
            answer.is_terminated = True
            continue
        _read_chunk(members(event.value), answer)
        if error := _error(event):
            answer.fail(error)
    for choice in answer.choices.values():
        if (audio := _joined(choice.audio)).get("data"):
            answer.show({"audio": audio})
    answer.has_finished_item = answer.all_finished()
    answer.is_terminated = answer.is_terminated or answer.has_finished_item


def _error(event: Event) -> str | None:
    """The error that an event reports: by its content, by its name, in a choice (OpenRouter), or
    in Groq's own member."""
    named = error_text(event.value) if event.name == "error" else None
    choices = elements(at(event.value, "choices"))
    of_choice = next((text for choice in choices if (text := reported_error(choice))), None)
    return (
        reported_error(event.value)
        or named
        or of_choice
        or word(at(event.value, "x_groq", "error"))
    )


def _read_chunk(chunk: dict[str, Json], answer: Growing) -> None:
    answer.model = word(chunk.get("model")) or answer.model
    answer.response_id = answer.response_id or word(chunk.get("id"))
    for position, choice in enumerate(elements(chunk.get("choices"))):
        index = whole(at(choice, "index"))
        _read_choice(members(choice), position if index is None else index, answer)
    for found in (
        chunk.get("usage"),
        at(chunk, "x_groq", "usage"),
        at(chunk, "choices", 0, "usage"),
    ):
        if members(found):
            answer.usage = read_usage(found)
            break


def _read_choice(choice: dict[str, Json], index: int, answer: Growing) -> None:
    answer.choice(index)
    part = _part(choice, answer.is_plain)
    _read_thoughts(part, index, answer)
    _read_content(part.get("content"), index, answer)
    answer.refuse(string(part.get("refusal")), index)
    if part.get("content") is None:
        answer.say(string(at(part, "audio", "transcript")), index)
    if audio := members(part.get("audio")):
        answer.touch()
        answer.choice(index).audio.append(audio)
    for image in elements(part.get("images")):  # OpenRouter, Gemini's OpenAI-compatible API
        answer.show(image)
    for call in elements(part.get("tool_calls")):
        _read_tool_call(members(call), index, answer)
    function = members(part.get("function_call"))
    if function.get("name") or function.get("arguments"):
        _grow(answer.call("function_call", index), function)
    for place in (choice, part):
        answer.finish(word(place.get("finish_reason")), index)
    answer.finish(word(at(choice, "finish_details", "type")), index)


def _part(choice: dict[str, Json], is_plain: bool) -> dict[str, Json]:
    """What a choice brings: a delta or a message. Perplexity sends both: in a stream the message
    is all so far, in a plain answer the delta is empty."""
    names = ("message", "delta") if is_plain else ("delta", "message")
    return next((members(choice[name]) for name in names if isinstance(choice.get(name), dict)), {})


def _read_thoughts(part: dict[str, Json], index: int, answer: Growing) -> None:
    """Servers that send the same thoughts under several names are read once."""
    for name in ("reasoning_content", "reasoning", "thinking"):
        if found := word(part.get(name)):
            answer.think(found, choice=index)
            return
    for number, detail in enumerate(elements(part.get("reasoning_details"))):
        found = string(at(detail, "text")) or string(at(detail, "summary"))
        block = whole(at(detail, "index"))
        if block is None and answer.is_plain:
            block = number
        answer.think(found, block, index)


def _read_content(content: Json, index: int, answer: Growing) -> None:
    if isinstance(content, str):
        answer.say(content, index)
    for part in elements(content):
        if at(part, "image_url") is not None:
            answer.show(part)
        thinking = at(part, "thinking") or elements(at(part, "summary"))  # Mistral; Databricks
        if not thinking:
            answer.say("".join(text_parts(part)), index)
            answer.refuse(string(at(part, "refusal")), index)
        else:
            answer.think("".join(text_parts(thinking)), choice=index)


def _joined(deltas: list[dict[str, Json]]) -> dict[str, Json]:
    """One spoken answer of its deltas: `data` and `transcript` grow, the rest is said once."""
    whole_audio: dict[str, Json] = {}
    for delta in deltas:
        whole_audio |= delta
    if "data" in whole_audio:
        whole_audio["data"] = _glued([string(delta.get("data")) for delta in deltas])
    if "transcript" in whole_audio:
        whole_audio["transcript"] = "".join(string(delta.get("transcript")) for delta in deltas)
    return whole_audio


def _glued(pieces: list[str]) -> str:
    """One base64 text of several, each of which may end in padding of its own."""
    if not any(piece.endswith("=") for piece in pieces[:-1]):
        return "".join(pieces)
    try:
        return b64encode(b"".join(map(b64decode, pieces))).decode("ascii")
    except ValueError:  # no base64 at all
        return "".join(pieces)


def _read_tool_call(delta: dict[str, Json], index: int, answer: Growing) -> None:
    call = _call_of(delta, index, answer)
    given = delta.get("id")
    if isinstance(given, str) and not call.id:
        call.id = given
        answer.choice(index).latest["id", given] = call
    custom = members(delta.get("custom"))
    if custom:
        _grow(call, {"name": custom.get("name"), "arguments": custom.get("input")})
    _grow(call, members(delta.get("function")))


def _call_of(delta: dict[str, Json], choice: int, answer: Growing) -> PartialCall:
    """The call a delta belongs to: by index; a new id on a used index begins another call.

    Without an index the id decides; without either, a delta with a name begins a call and one
    without continues the last.
    """
    found = answer.choice(choice)
    position, call_id = whole(delta.get("index")), word(delta.get("id"))
    if position is not None:
        call = found.latest.get(position)
        if call and (call_id is None or call.id in (None, "", call_id)):
            return call
        return answer.begin_call(position, choice, position)
    if call_id is not None:
        return found.latest.get(("id", call_id)) or answer.begin_call(None, choice)
    if found.calls and not word(at(delta, "function", "name")):
        return found.calls[-1]
    return answer.begin_call(None, choice)


def _grow(call: PartialCall, function: dict[str, Json]) -> None:
    name, arguments = string(function.get("name")), function.get("arguments")
    if name != call.name:  # some servers repeat the whole name with every delta
        call.name += name
    if isinstance(arguments, str):
        call.pieces.append(arguments)
    elif arguments is not None:
        call.value = arguments


def read_usage(raw: Json) -> Usage:
    """Usage as Chat Completions and Completions report it."""
    usage = members(raw)
    parts = usage.get("prompt_tokens_details")
    cached = whole(at(parts, "cached_tokens"))
    if cached is None:  # DeepSeek; Moonshot; Mistral
        cached = first_count(usage, "prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens")
    return usage_of(
        raw,
        whole(usage.get("prompt_tokens")),
        whole(usage.get("completion_tokens")),
        whole(usage.get("total_tokens")),
        cached=cached,
        cache_write=first_count(members(parts), *_CACHE_WRITES),
        reasoning=whole(at(usage, "completion_tokens_details", "reasoning_tokens")),
    )
