"""The way from an exchange to its meaning: the right decoder for the endpoint, behind a fence.

`decode` is total: whatever the bytes are, it gives a ModelCall and says what it could not read.
Adding a dialect is one module with `read_prompt` and `read_answer`, and one row in `_DIALECTS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from urllib.parse import unquote

from proxy.call import Answer, Json, ModelCall, Prompt
from proxy.decode import (
    anthropic,
    bedrock,
    cohere,
    gemini,
    ollama,
    openai_chat,
    openai_completions,
    openai_realtime,
    openai_responses,
)
from proxy.decode.accumulate import Growing
from proxy.decode.body import BODY_BYTES_MAX, Body, read_body
from proxy.decode.failure import error_text, shortened
from proxy.decode.framing import Event, Framing, framing_of, read_events
from proxy.decode.jsonvalue import BROKEN, read_json
from proxy.decode.problems import Problems
from proxy.exchange import Exchange, Piece
from proxy.nouns import noun

DECODER_VERSION = 2
"""Raised whenever the same bytes come to mean something else; rows hold it in `capture.decoder`."""


@noun(frozen=True, slots=True)
class Dialect:
    """How to read the two sides of one endpoint."""

    read_prompt: Callable[[dict[str, Json]], Prompt]
    read_answer: Callable[[Iterable[Event], Growing], None]


_DIALECTS: dict[str, Dialect] = {
    "chat.completions": Dialect(openai_chat.read_prompt, openai_chat.read_answer),
    "completions": Dialect(openai_completions.read_prompt, openai_completions.read_answer),
    "responses": Dialect(openai_responses.read_prompt, openai_responses.read_answer),
    "responses.retrieve": Dialect(openai_responses.read_prompt, openai_responses.read_answer),
    "realtime": Dialect(openai_realtime.read_prompt, openai_realtime.read_answer),
    "messages": Dialect(anthropic.read_prompt, anthropic.read_answer),
    "generateContent": Dialect(gemini.read_prompt, gemini.read_answer),
    "streamGenerateContent": Dialect(gemini.read_prompt, gemini.read_answer),
    "converse": Dialect(bedrock.read_converse_prompt, bedrock.read_converse_answer),
    "converse-stream": Dialect(bedrock.read_converse_prompt, bedrock.read_converse_answer),
    "invoke": Dialect(bedrock.read_invoke_prompt, bedrock.read_invoke_answer),
    "invoke-stream": Dialect(bedrock.read_invoke_prompt, bedrock.read_invoke_answer),
    "api.chat": Dialect(ollama.read_chat_prompt, ollama.read_answer),
    "api.generate": Dialect(ollama.read_generate_prompt, ollama.read_answer),
    "chat": Dialect(cohere.read_prompt, cohere.read_answer),
}

# Vertex serves the same paths under a project or a publisher.
_ON_VERTEX = re.compile(r"/(?:projects|publishers)/[^?]*:(?:streamG|g)enerateContent")
_VERTEX = Dialect(gemini.read_prompt, gemini.read_vertex_answer)

_PATH_MODEL = re.compile(
    r"/(?:models|tunedModels|deployments)/([^/]+?)(?::\w+)?(?:/|$)|/model/(.+)/[\w-]+$"
)


def decode(exchange: Exchange, body_bytes_max: int = BODY_BYTES_MAX) -> ModelCall:
    """What the exchange means, of each body as much as is kept. Never raises."""
    is_on_vertex = _ON_VERTEX.search(exchange.start.target)
    dialect = _VERTEX if is_on_vertex else _DIALECTS.get(exchange.start.endpoint)
    if dialect is None:
        problem = f"no decoder for endpoint {exchange.start.endpoint[:80]!r}"
        return ModelCall(Prompt(model=_path_model(exchange), problems=(problem,)), Answer())
    return ModelCall(
        _prompt(exchange, dialect, body_bytes_max), _answer(exchange, dialect, body_bytes_max)
    )


def _prompt(exchange: Exchange, dialect: Dialect, body_bytes_max: int) -> Prompt:
    problems = Problems()
    try:
        coding = exchange.request_coding
        pieces = (Piece(0, exchange.request),)
        body = read_body(pieces, coding, problems, "request", body_bytes_max)
        prompt, is_truncated = _read_prompt(body, dialect, problems), body.is_truncated
    except Exception as error:  # noqa: BLE001  the fence: a decoder's bug must not cost the row
        problems.add(f"request decoder failed: {type(error).__name__}")
        prompt, is_truncated = Prompt(), False
    model, found = prompt.model or _path_model(exchange), problems.as_tuple()
    if (model, is_truncated, found) == (prompt.model, False, ()):
        return prompt
    return replace(prompt, model=model, is_truncated=is_truncated, problems=prompt.problems + found)


def _read_prompt(body: Body, dialect: Dialect, problems: Problems) -> Prompt:
    if not body.data:
        problems.add("request has no body")
        return Prompt()
    value = read_json(body.data, problems, "request")
    if not isinstance(value, dict):
        is_json = value is not BROKEN
        problems.add("request is no JSON object" if is_json else "request is not valid JSON")
        return Prompt()
    return dialect.read_prompt(value)


def _answer(exchange: Exchange, dialect: Dialect, body_bytes_max: int) -> Answer:
    if exchange.head is None:
        return Answer()
    problems = Problems()
    try:
        coding = exchange.response_coding
        body = read_body(exchange.response, coding, problems, "answer", body_bytes_max)
        framing = framing_of(body.data, exchange.response_header("content-type"))
        is_failure = exchange.head.status >= 400
        answer = (
            _failure(body, framing, problems)
            if is_failure
            else _read_answer(body, framing, dialect, problems)
        )
        return replace(answer, is_truncated=True) if body.is_truncated else answer
    except Exception as error:  # noqa: BLE001  the fence: a decoder's bug must not cost the row
        problems.add(f"answer decoder failed: {type(error).__name__}")
        return Answer(problems=problems.as_tuple())


def _read_answer(body: Body, framing: Framing, dialect: Dialect, problems: Problems) -> Answer:
    if framing in (Framing.EMPTY, Framing.OTHER):
        is_empty = framing is Framing.EMPTY
        problems.add("answer has no body" if is_empty else "answer is not valid JSON")
        return Answer(problems=problems.as_tuple())
    growing = Growing(problems, is_plain=framing is Framing.JSON)
    dialect.read_answer(read_events(body.data, framing, problems), growing)
    return growing.answer(body)


def _failure(body: Body, framing: Framing, problems: Problems) -> Answer:
    """An answer of status 400 or more: the provider's message, or what it sent instead."""
    values = [event.value for event in read_events(body.data, framing, Problems())]
    message = error_text(values) or shortened(body.data[:8192].decode("utf-8", "replace"))
    return Answer(
        error=message or "error without a body",
        is_stream=framing.is_stream,
        is_terminated=True,
        problems=problems.as_tuple(),
    )


def _path_model(exchange: Exchange) -> str | None:
    found = _PATH_MODEL.search(unquote(exchange.start.target.partition("?")[0]))
    return (found[1] or found[2]) if found else None
