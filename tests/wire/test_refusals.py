"""Refusals: each dialect's own error shape, as its SDK reads it."""

import json

import pytest

from proxy.wire.agent import refusal_bytes
from proxy.wire.refusals import Refusal


@pytest.mark.parametrize(
    ("dialect", "status", "shape"),
    [
        ("openai", 400, {"error": {"message": "agent-telemetry: t", "type": "invalid_request_error",
                                   "param": None, "code": None}}),
        ("openai", 502, {"error": {"message": "agent-telemetry: t", "type": "api_error",
                                   "param": None, "code": None}}),
        ("anthropic", 401, {"type": "error", "error": {"type": "authentication_error",
                                                       "message": "agent-telemetry: t"}}),
        ("anthropic", 502, {"type": "error", "error": {"type": "api_error",
                                                       "message": "agent-telemetry: t"}}),
        ("gemini", 504, {"error": {"code": 504, "message": "agent-telemetry: t",
                                   "status": "DEADLINE_EXCEEDED"}}),
        ("gemini", 502, {"error": {"code": 502, "message": "agent-telemetry: t",
                                   "status": "UNAVAILABLE"}}),
        ("ollama", 502, {"error": "agent-telemetry: t"}),
        ("bedrock", 502, {"message": "agent-telemetry: t"}),
        ("cohere", 502, {"message": "agent-telemetry: t"}),
    ],
)  # fmt: skip
def test_a_refusal_speaks_its_dialect(dialect, status, shape):
    assert json.loads(Refusal(status, "t", dialect).body) == shape


def test_a_refusal_is_a_whole_answer():
    refusal = Refusal(404, "t", "ollama")
    head, _, body = refusal_bytes(refusal, b"X-A: 1\r\n").partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 404 Not Found",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"X-A: 1",
        b"Connection: close",
    ]
