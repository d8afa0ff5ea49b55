"""What is said on the WebSockets of OpenAI: a scripted provider, and messages to replay by hand.

`answers_to` is the provider's side of both dialects as a function of one message, so that a real
server and a test without sockets say the same.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

Event = dict[str, Any]
USAGE = {"input_tokens": 12, "output_tokens": 3, "total_tokens": 15}
USAGE_DETAILS = {"input_tokens_details": {"cached_tokens": 4}, "output_tokens_details": {}}
REALTIME_DETAILS = {"input_token_details": {"cached_tokens": 4}, "output_token_details": {}}


class Provider:
    """One socket of a provider: gives the events that answer each message."""

    def __init__(self, path: str) -> None:
        self.is_realtime = "/realtime" in path
        self._numbers = itertools.count(1)

    def greeting(self) -> list[Event]:
        if not self.is_realtime:
            return []
        return [{"type": "session.created", "session": {"id": "sess_1", "model": "gpt-realtime"}}]

    def answers_to(self, message: Event) -> list[Event]:
        if self.is_realtime:
            return self._realtime(message)
        return self._responses(message) if message["type"] == "response.create" else []

    def _responses(self, message: Event) -> list[Event]:
        lane = {"stream_id": message["stream_id"]} if "stream_id" in message else {}
        if message.get("model") == "unknown":
            error = {"type": "invalid_request_error", "code": "x", "message": "no such model"}
            return [lane | {"type": "error", "status": 400, "error": error}]
        id = f"resp_{next(self._numbers)}"
        response = {"id": id, "object": "response", "model": "gpt-5-1", "output": []}
        text = f"echo {message['input']}"
        item = {"type": "message", "id": f"msg_{id}", "role": "assistant", "content": []}
        done = item | {"content": [{"type": "output_text", "text": text}]}
        final = response | {"status": "completed", "output": [done], "usage": USAGE | USAGE_DETAILS}
        where = {"output_index": 0, "item_id": item["id"]}
        events = [
            {"type": "response.created", "response": response | {"status": "in_progress"}},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            *(
                {"type": "response.output_text.delta", "content_index": 0, "delta": part, **where}
                for part in (text[:4], text[4:])
            ),
            {"type": "response.output_item.done", "output_index": 0, "item": done},
            {"type": "response.completed", "response": final},
        ]
        return [lane | event for event in events]

    def _realtime(self, message: Event) -> list[Event]:
        match message["type"]:
            case "session.update":
                session = {"model": "gpt-realtime"} | message["session"]
                return [{"type": "session.updated", "session": session}]
            case "conversation.item.create":
                item = {"id": f"item_{next(self._numbers)}"} | message["item"]
                return [{"type": "conversation.item.added", "item": item}]
            case "response.create":
                return self._spoken(message.get("response", {}))
        return [{"type": "error", "error": {"message": "unknown event", "event_id": None}}]

    def _spoken(self, asked: Event) -> list[Event]:
        number = next(self._numbers)
        response = {"id": f"resp_{number}", "object": "realtime.response", "output": []}
        item = {"id": f"item_{number}", "type": "message", "role": "assistant", "content": []}
        done = item | {"content": [{"type": "output_audio", "transcript": "spoken word"}]}
        call = {"id": f"call_{number}", "type": "function_call", "call_id": "c1", "name": "look"}
        call["arguments"] = '{"at": 1}'
        final = response | {
            "status": "completed",
            "output": [done, call],
            "usage": USAGE | REALTIME_DETAILS,
        }
        where = {"response_id": response["id"], "output_index": 0, "item_id": item["id"]}
        return [
            {"type": "response.created", "response": response | {"status": "in_progress"}},
            {"type": "conversation.item.added", "item": item | {"status": "in_progress"}},
            {"type": "response.output_item.added", "item": item, **where},
            {"type": "response.output_audio.delta", "content_index": 0, "delta": "AAAA", **where},
            *(
                {
                    "type": "response.output_audio_transcript.delta",
                    "content_index": 0,
                    "delta": part,
                    **where,
                }
                for part in ("spoken ", "word")
            ),
            {"type": "response.output_item.done", "item": done, **where},
            {"type": "conversation.item.done", "item": done},
            {"type": "response.done", "response": final},
        ]


def encoded(event: Event) -> bytes:
    return json.dumps(event).encode()
