"""RealtimeSession: what a response of a Realtime socket is made from, as the provider said it.

Over the socket a request names neither instructions nor history: they were set by earlier events.
This keeps the session's parameters and the conversation's items, and puts them together as the
body that the Responses API would have been sent. The provider's echo counts, not what the client
asked for; sound is in neither, its transcript is.

Source: https://platform.openai.com/docs/api-reference/realtime-server-events
"""

from __future__ import annotations

import json

from proxy.call import Json
from proxy.decode.jsonvalue import at, elements, members, string, whole, word

ITEMS_MAX = 4096  # older ones have left the model's context long before
_OF_THE_CONNECTION = frozenset({"id", "object", "type", "expires_at", "client_secret"})
_TRANSCRIPT = "conversation.item.input_audio_transcription.completed"


class RealtimeSession:
    """The state of one socket. `model` is what its address names."""

    __slots__ = ("_items", "_parameters")

    def __init__(self, model: str | None) -> None:
        self._parameters: dict[str, Json] = {"model": model} if model else {}
        self._items: dict[str, dict[str, Json]] = {}

    def hear(self, event: dict[str, Json]) -> None:
        """An event of the provider."""
        kind = string(event.get("type"))
        item = members(event.get("item"))
        id = word(item.get("id")) or word(event.get("item_id")) or ""
        if kind in ("session.created", "session.updated"):
            session = members(event.get("session"))
            self._parameters |= {k: v for k, v in session.items() if k not in _OF_THE_CONNECTION}
        elif kind in (f"conversation.item.{verb}" for verb in ("created", "added", "done")):
            self._put(id, item)
        elif kind == "response.output_item.done" and id in self._items:
            self._items[id] = item
        elif kind == "response.done":
            for output in map(members, elements(at(event, "response", "output"))):
                if (known := word(output.get("id"))) in self._items:
                    self._items[str(known)] = output
        elif kind == "conversation.item.deleted":
            self._items.pop(id, None)
        elif kind == _TRANSCRIPT:
            self._hear_transcript(id, event)

    def request(self, asked: dict[str, Json]) -> bytes:
        """The body of a response that begins now; `asked` is what `response.create` says of it."""
        said = [item for item in self._items.values() if item.get("status") != "in_progress"]
        try:
            return json.dumps(self._parameters | {"input": said} | asked).encode()
        except RecursionError:  # nested by somebody to do harm
            return b"{}"

    def _put(self, id: str, item: dict[str, Json]) -> None:
        if id:
            self._items[id] = item
            while len(self._items) > ITEMS_MAX:
                del self._items[next(iter(self._items))]

    def _hear_transcript(self, id: str, event: dict[str, Json]) -> None:
        content = elements(at(self._items.get(id), "content"))
        position = whole(event.get("content_index")) or 0
        part = members(at(content, position))
        if part:
            part["transcript"] = event.get("transcript")
