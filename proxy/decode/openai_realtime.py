"""OpenAI Realtime: responses over a WebSocket, in nearly the words of the Responses API.

What differs is renamed, then read as Responses: the final event is `response.done`, sound is told
by its transcript, and the names of some members and of the beta's events are others. The request is
put together in `realtime_session`.

Source: https://platform.openai.com/docs/api-reference/realtime-server-events
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from proxy.call import Json, Prompt
from proxy.decode import openai_responses
from proxy.decode.accumulate import Growing
from proxy.decode.framing import Event
from proxy.decode.jsonvalue import at, elements, members, string

_EVENTS = {
    "response.done": "response.completed",
    "response.output_audio_transcript.delta": "response.output_text.delta",
    "response.audio_transcript.delta": "response.output_text.delta",  # these two: the beta's
    "response.text.delta": "response.output_text.delta",
}


def read_prompt(body: dict[str, Json]) -> Prompt:
    """The request of a response, as `RealtimeSession` puts it together."""
    items = elements(body.get("input"))
    prompt = openai_responses.read_prompt(body | {"input": _texts_of_all(items)})
    history = items[len(items) - len(prompt.chat_history) :]
    return replace(prompt, chat_history=tuple(history), is_stream=True)


def read_answer(events: Iterable[Event], answer: Growing) -> None:
    """A response as events."""
    openai_responses.read_answer(_renamed(events), answer)


def _renamed(events: Iterable[Event]) -> Iterator[Event]:
    for event in events:
        value = members(event.value)
        kind = string(value.get("type"))
        renamed: dict[str, Json] = {"type": _EVENTS.get(kind, kind)}
        if response := members(value.get("response")):
            renamed["response"] = _response(response)
        if item := members(value.get("item")):
            renamed["item"] = _with_texts(item)
        yield replace(event, value=value | renamed)


def _response(response: dict[str, Json]) -> dict[str, Json]:
    details = members(response.get("status_details"))
    changed: dict[str, Json] = {"output": _texts_of_all(elements(response.get("output")))}
    if response.get("status") == "incomplete" and details.get("reason"):
        changed["incomplete_details"] = {"reason": details["reason"]}
    if error := at(details, "error"):
        changed["error"] = error
    return response | changed


def _texts_of_all(items: list[Json]) -> list[Json]:
    return [_with_texts(members(item)) for item in items]


def _with_texts(item: dict[str, Json]) -> dict[str, Json]:
    """The item with the transcript of its sound as text."""
    parts = elements(item.get("content"))
    if not any(at(part, "transcript") for part in parts):
        return item
    texts: list[Json] = [
        {**members(part), "text": at(part, "transcript")} if at(part, "transcript") else part
        for part in parts
    ]
    return item | {"content": texts}
