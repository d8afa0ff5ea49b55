"""Secrets that exist nowhere else, and the calls that carry them through every channel.

A `Call` holds one canary per channel it uses. Those of heads (headers, query, path) may be any
text, since the gateway knows them by their place; those of bodies have a shape that the rules know,
or are copies of the call's own credential.
"""

import gzip
import json
import random
import string
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field

import brotli
import zstandard

rng = random.Random(20260101)
WORD = string.ascii_letters + string.digits


def some(length: int, alphabet: str = WORD) -> str:
    return "".join(rng.choices(alphabet, k=length))


def jwt() -> str:
    head = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
    body = urlsafe_b64encode(json.dumps({"sub": some(12)}).encode()).decode().rstrip("=")
    return f"{head}.{body}.{some(43)}"


def pem() -> str:
    lines = "\n".join(some(64) for _ in range(3))
    return f"-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----"


SHAPES = (
    lambda: f"sk-proj-{some(48)}",
    lambda: f"sk-ant-api03-{some(60)}",
    lambda: f"AIza{some(35)}",
    lambda: f"AKIA{some(16, string.ascii_uppercase + '234567')}",
    lambda: f"ghp_{some(36)}",
    lambda: f"gsk_{some(52)}",
    lambda: f"hf_{some(34)}",
    lambda: f"xoxb-{some(12, string.digits)}-{some(24)}",
    lambda: f"sk_live_{some(24)}",
    jwt,
    pem,
)
CODINGS = {
    None: lambda body: body,
    "gzip": gzip.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
}


@dataclass
class Call:
    """One call: what the agent sends and what the provider shall answer."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    answer: list[bytes]
    in_head: list[str] = field(default_factory=list)  # canaries that may not reach the disk
    in_bodies: list[str] = field(default_factory=list)  # those of the head among them, if copied


def parts(value: str) -> list[str]:
    """The value in pieces, cut anywhere."""
    cuts = sorted(rng.sample(range(1, len(value)), 3))
    return [value[a:b] for a, b in zip([0, *cuts], [*cuts, len(value)], strict=True)]


def call(number: int) -> Call:
    """The n-th call, with a canary in each channel of its kind."""
    head = [some(rng.randint(16, 60)) for _ in range(6)]
    authorization, other, cookie, key, parameter, token = head
    shaped = [SHAPES[(number + n) % len(SHAPES)]() for n in range(7)]
    shaped.append(SHAPES[number % (len(SHAPES) - 1)]())  # a header's value is one line
    text, system, tool, result, arguments, said, thought, label = shaped
    # Two of three agents put the credentials of their headers into the body too.
    is_copied = number % 3 != 0
    repeated, again = (authorization, other) if is_copied else ("none", "none")
    coding = list(CODINGS)[number % len(CODINGS)]
    label_place = ("/t/" + token) if number % 2 else ""
    headers = {
        "authorization": f"Bearer {authorization}",
        "x-internal-auth-token": other,
        "cookie": f"session={cookie}",
        "content-type": "application/json",
        "x-call": str(number),
        "x-telemetry-session": f"canary-{number}",
        "x-telemetry-label-note": f"see {label}",
    }
    if not label_place:
        headers["x-telemetry-token"] = token
    if coding:
        headers["content-encoding"] = coding
    history = [
        {"role": "system", "content": f"config: {system}"},
        {"role": "user", "content": f"my key is {text}, the header's {repeated}."},
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "env", "arguments": json.dumps({"key": arguments})},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": f"TOKEN={result}\n{again}\n"},
    ]
    function = {"name": "env", "description": f"e.g. {tool}", "parameters": {"type": "object"}}
    request = {
        "model": "scripted-1",
        "stream": True,
        "messages": history,
        "tools": [{"type": "function", "function": function}],
    }
    status, answer = _answer(number, said, thought, repeated)
    return Call(
        f"{label_place}/openai/v1/chat/completions?key={key}&access={parameter}",
        headers,
        CODINGS[coding](json.dumps(request).encode()),
        status,
        answer,
        head[2:] if is_copied else head,
        shaped + head[:2] if is_copied else shaped,
    )


def _answer(number: int, said: str, thought: str, echoed: str) -> tuple[int, list[bytes]]:
    """Every fifth call fails with the canaries in the error; the others stream them in pieces."""
    if number % 5 == 0:
        message = f"Incorrect API key provided: {said} {thought} {echoed}"
        return 401, [json.dumps({"error": {"message": message}}).encode()]
    deltas: list[dict] = [{"reasoning_content": piece} for piece in parts(f"hm {thought}")]
    deltas += [{"content": piece} for piece in parts(f"it is {said} and {echoed}")]
    for n, piece in enumerate(parts(json.dumps({"command": f"login {said} {echoed}"}))):
        function = {"arguments": piece} | ({"name": "sh"} if n == 0 else {})
        deltas.append({"tool_calls": [{"index": 0, "id": "call_2", "function": function}]})
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    return 200, [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks] + [
        b"data: [DONE]\n\n"
    ]
