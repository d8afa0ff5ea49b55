"""Provider: answers requests as scripted, in the shape of each dialect, and keeps what was sent.

Which script is meant is told by the API key. Answers follow from key and number alone (ids too), so
that what was recorded can be answered again without being kept.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from typing import Any

from aiohttp import web

from tests.agents.script import Place, Scenario, Step, places
from tests.serving import serving

MODEL = "laboratory-1"
PART = 6  # of an answer that breaks off: this many of its events are sent


@dataclass
class Sent:
    """A request as it came, and what became of its answer."""

    key: str
    number: int
    path: str
    headers: dict[str, str]
    body: Any
    started_ms: float
    ended_ms: float = 0.0
    place: Place | None = None  # None: nothing was scripted for it
    digests: tuple[str, str | None] = ("", None)  # of both bodies; None: the answer is not whole


@dataclass
class Provider:
    """Answers from the scripts of some scenarios."""

    scripts: dict[str, list[Place]] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    _seen: Counter[str] = field(default_factory=Counter)
    _began: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, scenarios: Iterable[Scenario]) -> Provider:
        return cls(
            {key: list(places(key, t)) for each in scenarios for key, t in each.scripts().items()}
        )

    def serving(self) -> AbstractAsyncContextManager[str]:
        return serving(self._guarded)

    async def _guarded(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ConnectionError:  # the agent hung up
            return web.Response()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        data = await request.read()
        body = json.loads(data)
        key = request.headers.get("x-api-key") or request.headers["authorization"][7:]
        number = self._seen[key]
        self._seen[key] += 1
        headers = {name.lower(): value for name, value in request.headers.items()}
        sent = Sent(key, number, request.path, headers, body, self._now_ms())
        self.sent.append(sent)
        script = self.scripts.get(key, [])
        if number >= len(script):
            return web.json_response(
                {"error": {"message": f"nothing scripted for {key}"}}, status=418
            )
        sent.place = script[number]
        try:
            return await self._send(request, sent, sha256(data).hexdigest(), sent.place.step)
        finally:
            sent.ended_ms = self._now_ms()

    async def _send(
        self, request: web.BaseRequest, sent: Sent, digest: str, step: Step
    ) -> web.StreamResponse:
        status, kind, pieces = answer(sent.path, sent.body, step, f"{sent.key}/{sent.number}")
        response = web.StreamResponse(
            status=status, headers={"Content-Type": kind, "retry-after": "0"}
        )
        response.enable_chunked_encoding()
        await response.prepare(request)
        sent.digests = digest, sha256(b"".join(pieces)).hexdigest() if step.is_answer else None
        whole = not (step.is_cut or step.is_hung_up)
        for piece in pieces if whole else pieces[:PART]:
            await response.write(piece)
        if step.is_hung_up or step.is_left:
            while request.transport is not None and not request.transport.is_closing():
                await asyncio.sleep(0.005)
        if (not whole or step.is_left) and request.transport is not None:
            request.transport.abort()
        else:
            await response.write_eof()
        return response

    def _now_ms(self) -> float:
        return round((time.monotonic() - self._began) * 1000, 1)


def answer(path: str, body: Mapping[str, Any], step: Step, id: str) -> tuple[int, str, list[bytes]]:
    """Status, content type and pieces of an answer."""
    dialect = next(name for ending, name in _DIALECTS.items() if path.endswith(ending))
    short = blake2b(id.encode(), digest_size=8).hexdigest()
    if step.status >= 400:
        error = {"type": "api_error", "message": "the provider is not well", "code": None}
        return step.status, "application/json", [_json({"type": "error", "error": error})]
    if not body.get("stream"):
        return 200, "application/json", [_json(_WHOLE[dialect](step, short))]
    return 200, "text/event-stream", list(_STREAM[dialect](step, short))


_DIALECTS = {"/chat/completions": "chat", "/responses": "responses", "/messages": "messages"}
_CHAT_FINISH = {"length": "length", "refusal": "content_filter"}
_MESSAGES_FINISH = {"length": "max_tokens", "refusal": "refusal"}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _calls(step: Step, id: str) -> list[tuple[str, str, str]]:
    return [
        (f"call_{id}_{n}", name, json.dumps(arguments))
        for n, (name, arguments) in enumerate(step.tools)
    ]


# --- chat completions ---


def _chat(step: Step, id: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": step.text or None}
    if step.tools:
        message["tool_calls"] = [
            {"id": call, "type": "function", "function": {"name": name, "arguments": given}}
            for call, name, given in _calls(step, id)
        ]
    usual = "tool_calls" if step.tools else "stop"
    finish = _CHAT_FINISH.get(step.finish or "", usual)
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    return {**_chat_head(id), "object": "chat.completion", "choices": [choice], "usage": usage}


def _chat_head(id: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{id}", "created": 1_790_000_000, "model": MODEL}


def _chat_stream(step: Step, id: str) -> Iterable[bytes]:
    whole = _chat(step, id)
    message, finish = whole["choices"][0]["message"], whole["choices"][0]["finish_reason"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": word} for word in _words(step.text)]
    for index, call in enumerate(message.get("tool_calls", ())):
        deltas.append({"tool_calls": [{"index": index} | call]})
    chunks = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    chunks.append({"index": 0, "delta": {}, "finish_reason": finish})
    head = {**_chat_head(id), "object": "chat.completion.chunk"}
    for chunk in chunks:
        yield b"data: " + _json({**head, "choices": [chunk]}) + b"\n\n"
    yield b"data: " + _json({**head, "choices": [], "usage": whole["usage"]}) + b"\n\n"
    yield b"data: [DONE]\n\n"


# --- responses ---


def _responses(step: Step, id: str) -> dict[str, Any]:
    is_cut = step.finish == "length"
    output: list[dict[str, Any]] = []
    if step.text or step.finish == "refusal":
        part = {"type": "output_text", "text": step.text, "annotations": [], "logprobs": []}
        if step.finish == "refusal":
            part = {"type": "refusal", "refusal": step.text}
        output.append(
            {"type": "message", "id": f"msg_{id}", "role": "assistant", "status": "completed"}
            | {"content": [part]}
        )
    for call, name, given in _calls(step, id):
        output.append(
            {"type": "function_call", "id": f"fc_{call}", "call_id": call, "name": name}
            | {"arguments": given, "status": "completed"}
        )
    details = {"input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}}
    details |= {"output_tokens_details": {"reasoning_tokens": 0}}
    usage = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18, **details}
    return {
        **_responses_head(id),
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "output": output,
        "usage": usage,
    }


def _responses_head(id: str) -> dict[str, Any]:
    return {
        "id": f"resp_{id}",
        "object": "response",
        "created_at": 1_790_000_000,
        "model": MODEL,
        "status": "in_progress",
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def _responses_stream(step: Step, id: str) -> Iterable[bytes]:
    whole = _responses(step, id)
    number = 0

    def event(kind: str, **fields: Any) -> bytes:
        nonlocal number
        number += 1
        data = _json({"type": kind, "sequence_number": number - 1, **fields})
        return f"event: {kind}\ndata: ".encode() + data + b"\n\n"

    yield event("response.created", response=_responses_head(id))
    for index, item in enumerate(whole["output"]):
        at = {"output_index": index, "item_id": item["id"]}
        yield event("response.output_item.added", output_index=index, item=_opened(item))
        if item["type"] == "message":
            part = item["content"][0]
            empty = {**part, "text" if "text" in part else "refusal": ""}
            yield event("response.content_part.added", **at, content_index=0, part=empty)
            kind = "output_text" if "text" in part else "refusal"
            for word in _words(step.text):
                more = {"content_index": 0, "delta": word, "logprobs": []}
                yield event(f"response.{kind}.delta", **at, **more)
            said = {"text": step.text, "logprobs": []} if "text" in part else {"refusal": step.text}
            yield event(f"response.{kind}.done", **at, content_index=0, **said)
            yield event("response.content_part.done", **at, content_index=0, part=part)
        else:
            given = item["arguments"]
            yield event("response.function_call_arguments.delta", **at, delta=given)
            done = {"arguments": given, "name": item["name"]}
            yield event("response.function_call_arguments.done", **at, **done)
        yield event("response.output_item.done", output_index=index, item=item)
    ended = "incomplete" if whole["status"] == "incomplete" else "completed"
    yield event(f"response.{ended}", response=whole)


def _opened(item: dict[str, Any]) -> dict[str, Any]:
    emptied = {"content": []} if item["type"] == "message" else {"arguments": ""}
    return {**item, **emptied, "status": "in_progress"}


# --- messages ---


def _messages(step: Step, id: str) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": step.text}] if step.text else []
    for call, name, given in _calls(step, id):
        content.append({"type": "tool_use", "id": f"toolu_{call}", "name": name})
        content[-1]["input"] = json.loads(given)
    usual = "tool_use" if step.tools else "end_turn"
    return {
        "id": f"msg_{id}",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": _MESSAGES_FINISH.get(step.finish or "", usual),
        "stop_sequence": None,
        "usage": {"input_tokens": 11, "output_tokens": 7},
    }


def _messages_stream(step: Step, id: str) -> Iterable[bytes]:
    whole = _messages(step, id)

    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: ".encode() + _json({"type": kind, **fields}) + b"\n\n"

    head = {**whole, "content": [], "stop_reason": None}
    yield event("message_start", message=head)
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            yield event("content_block_start", index=index, content_block={**block, "text": ""})
            for word in _words(block["text"]):
                delta = {"type": "text_delta", "text": word}
                yield event("content_block_delta", index=index, delta=delta)
        else:
            yield event("content_block_start", index=index, content_block={**block, "input": {}})
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=delta, usage={"output_tokens": 7})
    yield event("message_stop")


def _words(text: str) -> list[str]:
    return [word + " " for word in text.split(" ")[:-1]] + text.split(" ")[-1:] if text else []


_WHOLE = {"chat": _chat, "responses": _responses, "messages": _messages}
_STREAM = {"chat": _chat_stream, "responses": _responses_stream, "messages": _messages_stream}
