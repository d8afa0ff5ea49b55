"""A provider's error, as one text.

Errors come as `{"error": {"message"}}`, `{"error": "text"}`, `{"message"}`, `{"detail"}`, as a list
of these, as HTML from a load balancer, or as nothing at all.
"""

from __future__ import annotations

from proxy.call import Json
from proxy.decode.jsonvalue import members, word

TEXT_CHARS_MAX = 2000
DEPTH_MAX = 5
_KEYS = ("error", "errors", "message", "Message", "error_message", "detail", "msg", "reason")
_CODES = ("code", "type", "status", "__type")


def error_text(value: Json, depth: int = 0) -> str | None:
    """The message inside an error of any known shape, or None where there is none."""
    if depth >= DEPTH_MAX:
        return None
    if isinstance(value, str):
        return shortened(value) or None
    if isinstance(value, list):
        return next((text for part in value[:4] if (text := error_text(part, depth + 1))), None)
    found = members(value)
    for key in _KEYS:
        text = error_text(found.get(key), depth + 1)
        if text:
            return text
    return next((text for key in _CODES if (text := word(found.get(key)))), None)


def reported_error(value: Json) -> str | None:
    """The error of a document that may also be an answer: only where it says so itself."""
    for _ in range(DEPTH_MAX):
        if isinstance(value, list):
            value = value[0] if value else None
    error = members(value).get("error")
    return (error_text(error) or "error without a message") if error else None


def shortened(text: str) -> str:
    """Text of an error, without outer white space and of sane length."""
    text = text.strip()
    return text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + "…"
