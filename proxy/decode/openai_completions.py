"""OpenAI Completions, the endpoint before chat: a prompt in, text out. Still served locally.

Some servers say `stop_reason` for the finish reason (DeepSeek on Bedrock).

Source: https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.call import Json, Prompt
from proxy.decode.accumulate import Growing
from proxy.decode.failure import reported_error
from proxy.decode.framing import DONE, Event
from proxy.decode.jsonvalue import at, elements, members, string, whole, word
from proxy.decode.openai_chat import read_usage
from proxy.decode.prompts import (
    joined,
    openai_labels,
    openai_session,
    text_parts,
    user_message,
    without,
)


def read_prompt(body: dict[str, Json]) -> Prompt:
    """The request of a completion. The prompt may be a text, several, or token numbers."""
    prompt = body.get("prompt")
    return Prompt(
        model=word(body.get("model")),
        chat_history=() if prompt is None else (user_message(prompt),),
        user_message=joined(text_parts(prompt)) or None,
        request_params=without(body, "prompt"),
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
        value = members(event.value)
        answer.model = word(value.get("model")) or answer.model
        answer.response_id = answer.response_id or word(value.get("id"))
        for position, choice in enumerate(elements(value.get("choices"))):
            index = whole(at(choice, "index"))
            index = position if index is None else index
            answer.say(string(at(choice, "text")), index)
            answer.choice(index)
            reason = word(at(choice, "finish_reason")) or word(at(choice, "stop_reason"))
            answer.finish(reason, index)
        if members(value.get("usage")):
            answer.usage = read_usage(value.get("usage"))
        if error := reported_error(event.value):
            answer.fail(error)
    answer.has_finished_item = answer.all_finished()
    answer.is_terminated = answer.is_terminated or answer.has_finished_item
