"""Refusals: the answers this gateway gives itself; errors in the shape of the dialect. Pure.

An SDK shows its user `message` of such a body, so the text says what happened and what to do. It
never holds anything of the request, its headers, its query or the provider's answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    504: "timeout_error",
}
_GEMINI_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    504: "DEADLINE_EXCEEDED",
}
# What is said where somebody asks whether the gateway answers.
HEALTHY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n"
    b'Connection: close\r\n\r\n{"status":"ok"}'
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in place of the provider's: status, and a text for the agent's user."""

    status: int
    text: str
    dialect: str = "openai"
    param: str | None = None  # the field of the request's body that is wrong

    @property
    def body(self) -> bytes:
        message = f"agent-telemetry: {self.text}"
        return orjson.dumps(_shape(self.dialect, self.status, message, self.param))

    @property
    def status_line(self) -> bytes:
        return b"HTTP/1.1 %d %b\r\n" % (self.status, HTTPStatus(self.status).phrase.encode())


NOT_HTTP_1 = Refusal(400, "the request is not valid HTTP/1.1 or HTTP/1.0")
SPOOL_FULL = Refusal(
    503, "the spool is full (spool.when_full = refuse); see agent-telemetry spool status"
)


def _shape(dialect: str, status: int, message: str, param: str | None) -> dict[str, Any]:
    match dialect:
        case "anthropic":
            kind = _ANTHROPIC_TYPES.get(status, "api_error")
            return {"type": "error", "error": {"type": kind, "message": message}}
        case "gemini":
            name = _GEMINI_STATUSES.get(status, "UNAVAILABLE")
            return {"error": {"code": status, "message": message, "status": name}}
        case "ollama":
            return {"error": message}
        case "bedrock" | "cohere":
            return {"message": message}
        case _:
            kind = "invalid_request_error" if status < 500 else "api_error"
            return {"error": {"message": message, "type": kind, "param": param, "code": None}}
