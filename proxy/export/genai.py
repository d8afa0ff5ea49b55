"""Messages in the form of OpenTelemetry's GenAI conventions: a role and parts. Pure.

Follows the JSON schemas gen-ai-input-messages and gen-ai-output-messages.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.call import Json
from proxy.export.message import Called, Conversation, Media, Message, Part, Result, Text, Thought


def given(conversation: Conversation) -> list[Json]:
    """What the model was given, without its instructions."""
    return [_message(message) for message in conversation.messages[:-1]]


def answered(conversation: Conversation, finish_reason: str | None) -> list[Json]:
    """What the model answered: one message."""
    message: dict[str, Json] = {
        **_message(conversation.messages[-1]),
        "finish_reason": finish_reason or "unknown",
    }
    return [message]


def _message(message: Message) -> dict[str, Json]:
    return {"role": message.role.value, "parts": [_part(part) for part in message.parts]}


def _part(part: Part) -> Json:
    if isinstance(part, Text):
        return {"type": "text", "content": part.text}
    if isinstance(part, Thought):
        return {"type": "reasoning", "content": part.text}
    if isinstance(part, Called):
        arguments: Json = part.arguments
        return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": arguments}
    if isinstance(part, Result):
        return {"type": "tool_call_response", "id": part.id, "response": _texts(part.content)}
    return _media(part)


def _media(part: Media) -> Json:
    """A medium by its kind; its bytes stay in the table."""
    found: dict[str, Json] = {"type": "uri", "modality": part.kind, "mime_type": part.media_type}
    return found | ({"uri": part.url} if part.url else {"uri": "agent-telemetry:inline"})


def _texts(content: Iterable[Text | Media]) -> str:
    return "\n\n".join(part.text for part in content if isinstance(part, Text))
