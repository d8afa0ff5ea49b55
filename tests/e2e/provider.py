"""A provider whose every answer follows from the request, and a client that keeps a ledger.

The user's message names the call; the answer repeats it in many pieces and calls a tool with it,
so that a row can be compared with what the client received, whichever call it belongs to.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.serving import serving

PIECES = 8
AT_ONCE_MAX = 200  # agents wait for each other where a machine is slow to start a process again


def text_of(name: str) -> str:
    return "".join(f"{name} piece {n}; " for n in range(PIECES))


def events(name: str) -> list[bytes]:
    common = {"id": f"chatcmpl-{name}", "object": "chat.completion.chunk", "model": "scripted-1"}
    deltas: list[dict] = [{"content": f"{name} piece {n}; "} for n in range(PIECES)]
    function = {"name": "note", "arguments": json.dumps({"call": name})}
    call = {"index": 0, "id": f"call_{name}", "type": "function", "function": function}
    deltas.append({"tool_calls": [call]})
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    chunks.append({"choices": [], "usage": usage})
    return [f"data: {json.dumps(common | c)}\n\n".encode() for c in chunks] + [b"data: [DONE]\n\n"]


def whole(name: str) -> bytes:
    function = {"name": "note", "arguments": json.dumps({"call": name})}
    message = {
        "role": "assistant",
        "content": text_of(name),
        "tool_calls": [{"id": f"call_{name}", "type": "function", "function": function}],
    }
    return json.dumps(
        {
            "id": f"chatcmpl-{name}",
            "object": "chat.completion",
            "model": "scripted-1",
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        }
    ).encode()


class Provider:
    """Answers chat completions; `called` holds the names of the calls that reached it."""

    def __init__(self, pause_s: float = 0.03) -> None:
        self.pause_s = pause_s
        self.called: set[str] = set()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = json.loads(await request.read())
        name = body["messages"][-1]["content"]
        self.called.add(name)
        if not body.get("stream"):
            await asyncio.sleep(self.pause_s)
            return web.Response(body=whole(name), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for event in events(name):
            await response.write(event)
            await asyncio.sleep(self.pause_s)
        await response.write_eof()
        return response

    def serving(self) -> AbstractAsyncContextManager[str]:
        return serving(self._guarded)

    async def _guarded(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self.answer(request)
        except ConnectionError:  # the gateway was killed while it read the answer
            return web.Response()


@dataclass
class Entry:
    """What the client saw of one call."""

    name: str
    stream: bool
    is_slow: bool = False  # to send its request: the body comes in two parts
    status: int | None = None
    row_id: str | None = None
    body: bytes = b""
    ended: bool = False  # the body ended cleanly
    first_byte_s: float | None = None
    error: str | None = None

    @property
    def terminal(self) -> bool:
        """Whether the dialect's terminal event, or the whole body, reached the client."""
        return b"data: [DONE]" in self.body if self.stream else self.ended and bool(self.body)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@dataclass
class Load:
    """Calls at a fixed rate through the gateway, streaming and not in turn."""

    url: str
    per_second: float = 50
    ledger: list[Entry] = field(default_factory=list)
    _tasks: set[asyncio.Task] = field(default_factory=set)
    _sent: int = 0

    @asynccontextmanager
    async def running(self, prefix: str) -> AsyncIterator["Load"]:
        stop = asyncio.Event()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            pacer = asyncio.create_task(self._pace(session, prefix, stop))
            try:
                yield self
            finally:
                stop.set()
                await pacer
                await asyncio.gather(*self._tasks)

    async def until(self, ended: int) -> None:
        """Wait until so many calls of the ledger have ended."""
        while sum(entry.ended for entry in self.ledger) < ended:
            await asyncio.sleep(0.01)

    async def _pace(self, session: aiohttp.ClientSession, prefix: str, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        start, sent = loop.time(), 0
        while not stop.is_set():
            entry = Entry(f"{prefix}-{sent}", stream=sent % 2 == 0, is_slow=sent % 4 >= 2)
            self.ledger.append(entry)
            task = asyncio.create_task(self._call(session, entry))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            sent += 1
            while len(self._tasks) >= AT_ONCE_MAX and not stop.is_set():
                await asyncio.sleep(0.01)
            await asyncio.sleep(max(0.0, start + sent / self.per_second - loop.time()))

    async def _call(self, session: aiohttp.ClientSession, entry: Entry) -> None:
        asked = {"model": "scripted-1", "messages": [{"role": "user", "content": entry.name}]}
        body = json.dumps(asked | {"stream": True} if entry.stream else asked).encode()
        headers = {
            "x-telemetry-session": entry.name,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
        }
        start = asyncio.get_running_loop().time()
        try:
            async with session.post(
                f"{self.url}/openai/v1/chat/completions",
                data=_in_two(body) if entry.is_slow else body,
                headers=headers,
            ) as answer:
                entry.status = answer.status
                entry.row_id = answer.headers.get("x-agent-telemetry-id")
                async for piece in answer.content.iter_any():
                    if entry.first_byte_s is None:
                        entry.first_byte_s = asyncio.get_running_loop().time() - start
                    entry.body += piece
                entry.ended = True
        except (aiohttp.ClientError, OSError) as error:
            entry.error = type(error).__name__


async def _in_two(body: bytes) -> AsyncIterator[bytes]:
    yield body[:20]
    await asyncio.sleep(0.02)
    yield body[20:]
