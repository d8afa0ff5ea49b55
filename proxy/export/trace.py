"""Traces: digests by which one conversation is told to be the beginning of another. Pure.

Taken over words, calls and results, without thoughts and ids, so that the same words recorded
twice are one conversation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from proxy.call import Json
from proxy.export.message import Called, Conversation, Media, Message, Part, Result, Role, Text

DIGEST_BYTES = 16


def trace(conversation: Conversation) -> tuple[bytes, ...]:
    """A digest for each place where the conversation could have ended; the last is its own."""
    return tuple(_digests(conversation.system, conversation.messages))


def _digests(system: str, messages: Sequence[Message]) -> Iterator[bytes]:
    hasher = blake2b(_written(system), digest_size=DIGEST_BYTES)
    for message in messages:
        parts: list[Json] = [found for part in message.parts if (found := _part(part))]
        hasher.update(_written([message.role.value, message.text, parts]))
        if message.role is Role.ASSISTANT:
            yield hasher.digest()


def _part(part: Part) -> Json:
    if isinstance(part, Called):
        return [part.name, part.arguments]
    if isinstance(part, Media):
        return [part.media_type, part.data, part.url]
    if isinstance(part, Result):
        inner = [each.text if isinstance(each, Text) else _part(each) for each in part.content]
        return [part.name, inner]
    return None


def _written(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True).encode() + b"\n"
