"""A provider that says "Hello!" in every dialect the guides show, whole or as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from aiohttp import web

from tests.serving import serving

TEXT = "Hello!"
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
ITEM = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
}


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    common = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
    if not body.get("stream"):
        message = {"role": "assistant", "content": TEXT}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            common | {"object": "chat.completion", "choices": [choice], "usage": USAGE}
        )
    chunk = common | {"object": "chat.completion.chunk"}
    delta = {"index": 0, "delta": {"role": "assistant", "content": TEXT}, "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    events = [chunk | {"choices": [delta]}, chunk | {"choices": [end], "usage": USAGE}]
    return await _stream(request, [(None, event) for event in events], "data: [DONE]\n\n")


async def responses(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    usage = {
        **{"input_tokens": 9, "output_tokens": 2, "total_tokens": 11},
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    answer = {
        **{"id": "resp_1", "object": "response", "created_at": 1, "status": "completed"},
        **{"model": body["model"], "output": [ITEM], "usage": usage, "error": None},
        **{"incomplete_details": None, "parallel_tool_calls": True, "tools": [], "metadata": {}},
    }
    if not body.get("stream"):
        return web.json_response(answer)
    begun = answer | {"status": "in_progress", "output": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    events = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": ITEM | {"content": []}},
        {"type": "response.content_part.added", **place, "part": part},
        {"type": "response.output_text.delta", **place, "delta": TEXT},
        {"type": "response.output_text.done", **place, "text": TEXT},
        {"type": "response.output_item.done", "output_index": 0, "item": ITEM},
        {"type": "response.completed", "response": answer},
    ]
    numbered = [event | {"sequence_number": n} for n, event in enumerate(events)]
    return await _stream(request, [(event["type"], event) for event in numbered])


async def messages(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    usage = {"input_tokens": 9, "output_tokens": 2}
    message = {
        **{"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"]},
        **{"stop_reason": "end_turn", "stop_sequence": None, "usage": usage},
    }
    if not body.get("stream"):
        return web.json_response(message | {"content": [{"type": "text", "text": TEXT}]})
    start = message | {"content": [], "stop_reason": None}
    delta = {"type": "text_delta", "text": TEXT}
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    events = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    return await _stream(request, [(event["type"], event) for event in events])


async def gemini(request: web.Request) -> web.StreamResponse:
    content = {"role": "model", "parts": [{"text": TEXT}]}
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 11}
    answer = {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": usage,
        "modelVersion": "gemini-2.5-flash",
    }
    if "stream" not in request.path:
        return web.json_response(answer)
    return await _stream(request, [(None, answer)])


async def _stream(
    request: web.Request, events: Iterable[tuple[str | None, dict]], end: str = ""
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for name, event in events:
        head = f"event: {name}\n" if name else ""
        await response.write(f"{head}data: {json.dumps(event)}\n\n".encode())
    await response.write(end.encode())
    return response


def answering(port: int = 0) -> AbstractAsyncContextManager[str]:
    """Serve all of them; gives the address."""
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/responses", responses)
    app.router.add_post("/v1/messages", messages)
    for version in ("v1", "v1beta"):
        app.router.add_post(f"/{version}/models/{{model}}", gemini)
    return serving(app, port)
