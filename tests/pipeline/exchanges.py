"""Whole exchanges as the spool delivers them."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from typing import Any

from proxy.exchange import AnswerHead, End, Exchange, Headers, Outcome, Piece, Start

AT_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def exchange(
    request: bytes,
    answer: bytes,
    *,
    endpoint: str = "chat.completions",
    status: int = 200,
    answer_headers: Headers = (("content-type", "application/json"),),
    pieces: Sequence[bytes] = (),
    **start: Any,
) -> Exchange:
    """An exchange that ended well on the wire."""
    known = {"id": uuid.uuid4(), "at_ns": AT_NS, "upstream": "openai", "dialect": "openai"}
    target = {"endpoint": endpoint, "method": "POST", "target": "/v1/chat/completions"}
    return Exchange(
        Start(**{**known, **target, **start}),
        request,
        AnswerHead(10, status, answer_headers),
        tuple(Piece(20 + n, piece) for n, piece in enumerate(pieces or [answer])),
        End(
            5000,
            Outcome.COMPLETE,
            None,
            len(request),
            len(answer),
            hashlib.sha256(request).hexdigest(),
            hashlib.sha256(answer).hexdigest(),
            True,
            len(request),
            len(answer),
        ),
    )


def chat(said: Any, answer: Any = None, **start: Any) -> Exchange:
    """A chat completion in which the user says `said`."""
    request = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": said}]}
    message = {"role": "assistant", "content": f"answer to {said}"}
    choice = {"index": 0, "message": answer or message, "finish_reason": "stop"}
    reply = {"model": "gpt-4o-mini", "choices": [choice], "usage": USAGE}
    return exchange(json.dumps(request).encode(), json.dumps(reply).encode(), **start)
