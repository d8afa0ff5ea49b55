"""Ollama's own endpoints, `api/chat` and `api/generate`: plain, or one JSON document per line.

Each line has the shape of a plain answer; the last says `done` and carries the counts.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.call import Json, Prompt, Usage
from proxy.decode.accumulate import Growing
from proxy.decode.failure import reported_error
from proxy.decode.framing import DONE, Event
from proxy.decode.jsonvalue import at, elements, members, string, whole, word
from proxy.decode.prompts import (
    chat_prompt,
    user_message,
    without,
)
from proxy.decode.usage import usage_of

_COUNTS = (
    *("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"),
    *("eval_count", "eval_duration"),
)


def read_chat_prompt(body: dict[str, Json]) -> Prompt:
    """The request of `api/chat`."""
    return chat_prompt(body, is_stream=body.get("stream") is not False)


def read_generate_prompt(body: dict[str, Json]) -> Prompt:
    """The request of `api/generate`."""
    prompt = body.get("prompt")
    return Prompt(
        model=word(body.get("model")),
        system_prompt=string(body.get("system")),
        chat_history=() if prompt is None else (user_message(prompt),),
        user_message=word(prompt),
        request_params=without(body, "prompt", "system"),
        is_stream=body.get("stream") is not False,
    )


def read_answer(events: Iterable[Event], answer: Growing) -> None:
    """An answer of either endpoint, whole or in lines."""
    for event in events:
        answer.reach(event.end)
        if event.name == DONE:
            continue
        value = members(event.value)
        answer.model = word(value.get("model")) or answer.model
        message = members(value.get("message"))
        for place, text in ((message, "content"), (value, "response")):
            answer.think(string(place.get("thinking")))
            answer.say(string(place.get(text)))
        for found in elements(message.get("tool_calls")):
            call = answer.begin_call()
            call.id = word(at(found, "id"))
            call.name = string(at(found, "function", "name"))
            call.value = at(found, "function", "arguments")
        if value.get("done") is True:
            answer.is_terminated = answer.has_finished_item = True
            answer.finish(word(value.get("done_reason")))
            answer.usage = _usage(value) or answer.usage
        if error := reported_error(value):
            answer.fail(error)


def _usage(value: dict[str, Json]) -> Usage | None:
    raw = {name: value[name] for name in _COUNTS if name in value}
    prompt, completion = whole(raw.get("prompt_eval_count")), whole(raw.get("eval_count"))
    if prompt is None and completion is None:
        return None
    return usage_of(raw, prompt, completion)
