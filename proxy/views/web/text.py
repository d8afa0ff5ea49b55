"""Text: other people's values as inert, bounded text. Pure and total: any JSON value will do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.log import json_line

CHARS_MAX = 6000  # of one text on a page of many
_MODEL_ROLES = ("assistant", "model", "function_call", "custom_tool_call", "reasoning")


@dataclass(frozen=True, slots=True)
class Text:
    """The beginning of a text, and how many characters are not shown."""

    shown: str
    rest: int = 0

    def __bool__(self) -> bool:
        return bool(self.shown)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message: words (`text`), or anything else as JSON under its kind."""

    kind: str
    text: Text


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a history, in whatever dialect."""

    role: str
    parts: tuple[Part, ...]
    is_echo: bool = False  # what the model said just before, as its client sends it back


def cut(text: Any, whole: int | None = None, limit: int = CHARS_MAX) -> Text:
    """A text cut to the limit; `whole` is its length where only the beginning is at hand."""
    given = text if isinstance(text, str) else "" if text is None else pretty(text)
    shown = given[:limit]
    return Text(shown, max(0, (whole if whole is not None else len(given)) - len(shown)))


def pretty(value: Any) -> str:
    """A JSON value on lines of its own."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2).decode()
    except TypeError:  # integers beyond 64 bits, deep nesting
        return json_line(value)


def message_of(value: Any, limit: int = CHARS_MAX) -> Message:
    """A message as it stands in `chat_history`."""
    if not isinstance(value, dict):
        return Message("message", (Part("text", cut(value, limit=limit)),))
    role = value.get("role") or value.get("type") or "message"
    return Message(str(role)[:40], tuple(_parts(value, limit)))


def is_echo(message: Message, said: str | None) -> bool:
    """Whether a message is the model's own, and holds no other words than it said."""
    words = "".join(part.text.shown for part in message.parts if part.kind == "text")
    return message.role in _MODEL_ROLES and words in ("", said)


def _parts(value: dict[str, Any], limit: int) -> Iterator[Part]:
    for key in ("content", "parts", "output"):  # parts: Gemini, output: Responses items
        content = value.get(key)
        pieces = content if isinstance(content, list) else [content]
        for piece in pieces:
            if piece is not None:
                yield _part(piece, limit)
    rest = {k: v for k, v in value.items() if k not in ("role", "content", "parts", "output") and v}
    if set(rest) - {"type", "id", "status"}:
        yield Part(", ".join(sorted(rest))[:80], cut(rest, limit=limit))


def _part(piece: Any, limit: int) -> Part:
    if isinstance(piece, str):
        return Part("text", cut(piece, limit=limit))
    if isinstance(piece, dict) and isinstance(piece.get("text"), str):
        return Part("text", cut(piece["text"], limit=limit))
    kind = piece.get("type") or next(iter(piece), "") if isinstance(piece, dict) else "value"
    return Part(str(kind)[:40], cut(piece, limit=limit))


def without_marks(value: Any) -> Any:
    """A message without what clients move along at each call: where a cached prefix ends."""
    if isinstance(value, dict):
        return {k: without_marks(v) for k, v in value.items() if k != "cache_control"}
    return [without_marks(item) for item in value] if isinstance(value, list) else value
