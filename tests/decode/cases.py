"""Exchanges for tests: from a case of `data/*.json` or from parts, as the spool would hold them.

A case's `answer` is an object (a JSON body), a string or a list of strings (the body's text), or
`{"messages": [[event type, payload], …]}` for an AWS event stream; `!` before the type makes an
exception of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID
from zlib import crc32

from proxy.call import ModelCall
from proxy.exchange import AnswerHead, Exchange, Piece, Start

DATA = Path(__file__).parent / "data"
ENDPOINTS = (
    *("chat.completions", "completions", "responses", "messages"),
    *("generateContent", "streamGenerateContent", "api.chat", "api.generate", "chat"),
    *("converse", "converse-stream", "invoke", "invoke-stream"),
)


def all_cases() -> list[tuple[str, dict[str, Any]]]:
    """Every case with its name."""
    return [
        (f"{file.stem}: {case['name']}", case)
        for file in sorted(DATA.glob("*.json"))
        for case in json.loads(file.read_text(encoding="utf-8"))
    ]


def exchange(
    endpoint: str,
    request: bytes,
    answer: bytes | list[bytes],
    *,
    target: str = "/",
    status: int = 200,
    content_type: str | None = None,
    coding: str | None = None,
    request_coding: str | None = None,
) -> Exchange:
    """An exchange whose answer came in these pieces, one each microsecond."""
    pieces = [answer] if isinstance(answer, bytes) else answer
    headers = {"content-type": content_type, "content-encoding": coding}
    return Exchange(
        Start(
            id=UUID(int=0),
            at_ns=0,
            upstream="up",
            dialect="openai",
            endpoint=endpoint,
            method="POST",
            target=target,
            headers=(("content-encoding", request_coding),) if request_coding else (),
        ),
        request,
        AnswerHead(0, status, tuple((k, v) for k, v in headers.items() if v is not None)),
        tuple(Piece(at_us, data) for at_us, data in enumerate(pieces)),
    )


def exchange_of(case: dict[str, Any]) -> Exchange:
    """The exchange that a case describes."""
    return exchange(
        case["endpoint"],
        json.dumps(case["request"]).encode(),
        body_of(case["answer"]),
        target=case["target"],
        status=case.get("status", 200),
        content_type=case.get("content_type"),
    )


def body_of(answer: Any) -> bytes:
    if isinstance(answer, dict) and "messages" in answer:
        return b"".join(message(name, payload) for name, payload in answer["messages"])
    if isinstance(answer, str):
        return answer.encode()
    if isinstance(answer, list) and all(isinstance(line, str) for line in answer):
        ends = ["" if line.endswith(("\n\n", "\r\n")) else "\n" for line in answer[:-1]]
        return "".join(map(str.__add__, answer, [*ends, ""])).encode()
    return json.dumps(answer).encode()


def message(name: str, payload: Any) -> bytes:
    """One message of an AWS event stream, with its checksums."""
    kind = "exception" if name.startswith("!") else "event"
    headers = {f":{kind}-type": name.removeprefix("!"), ":message-type": kind}
    return raw_message(headers, json.dumps(payload).encode())


def raw_message(headers: dict[str, str], payload: bytes) -> bytes:
    block = b"".join(
        bytes([len(name)])
        + name.encode()
        + b"\x07"
        + len(value).to_bytes(2, "big")
        + value.encode()
        for name, value in headers.items()
    )
    prelude = (16 + len(block) + len(payload)).to_bytes(4, "big") + len(block).to_bytes(4, "big")
    data = prelude + crc32(prelude).to_bytes(4, "big") + block + payload
    return data + crc32(data).to_bytes(4, "big")


def check(call: ModelCall) -> None:
    """No decoder failed at it (`decode` itself never raises), and its tool calls are JSON."""
    assert isinstance(call, ModelCall)
    assert not any("decoder failed" in problem for problem in call.problems), call.problems
    json.dumps([found.as_json() for found in call.answer.tool_calls])


def flattened(call: ModelCall) -> dict[str, Any]:
    """A decoded call under the names that cases use."""
    prompt, answer, usage = call.prompt, call.answer, call.answer.usage
    return {
        "model": call.model,
        "system": prompt.system_prompt,
        "history": list(prompt.chat_history),
        "user": prompt.user_message,
        "params": prompt.request_params,
        "stream_asked": prompt.is_stream,
        "partial": prompt.is_partial_context,
        "session": prompt.session_hint,
        "labels": [list(label) for label in prompt.labels],
        "text": answer.text,
        "thoughts": answer.thoughts,
        "tool_calls": [found.as_json() for found in answer.tool_calls],
        "usage": usage and [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens],
        "cached": usage and usage.cached_tokens,
        "cache_write": usage and usage.cache_write_tokens,
        "reasoning": usage and usage.reasoning_tokens,
        "usage_final": usage and usage.is_final,
        "finish": answer.finish_reason,
        "refusal": answer.is_refusal,
        "choices": list(answer.choices),
        "media": list(answer.media),
        "response_id": answer.response_id,
        "streamed": answer.is_stream,
        "terminated": answer.is_terminated,
        "finished_item": answer.has_finished_item,
        "error": answer.error,
        "stream_error": answer.is_stream_error,
        "problems": list(call.problems),
    }
