"""Demo: a first look without an API key.

A built-in fake provider and a scripted agent with one tool, run through the real gateway, spool,
recorder and an embedded database in a temporary directory; then the rows. Nothing leaves the
machine and nothing stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import orjson

from proxy.config import Config
from proxy.environment import load
from proxy.errors import ProxyError
from proxy.probe import gateway_answers
from proxy.reading import is_ready

READY_S = 30.0
QUESTION = "What is the weather in Bergen?"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
_ID = "chatcmpl-demo"
_MODEL = "demo-model"


async def run(say: Callable[[str], None], show: Callable[[Config, str], Any]) -> None:
    """Play the demonstration; `say` prints a line, `show` prints the rows of a session.

    A signal that would end the process cancels it instead, so that nothing is left behind.
    """
    playing, loop = asyncio.current_task(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, cast(asyncio.Task[None], playing).cancel)
    provider = await asyncio.start_server(_provide, "127.0.0.1", 0)
    with tempfile.TemporaryDirectory(prefix="agent-telemetry-demo-") as directory:
        config, environment = _configuration(Path(directory), provider.sockets[0].getsockname()[1])
        say("starting gateway, recorder and an embedded PostgreSQL …")
        command = [sys.executable, "-m", "proxy", "serve"]
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=subprocess.DEVNULL
        )
        try:
            await _until_ready(config, process)
            base = f"http://{config.gateway.listen}/p/demo/s/demo-session/demo/v1"
            say(f"agent: base_url = {base}")
            await _agent(config, say)
            say("\nthe calls, as `agent-telemetry tail` shows them, and the last one's row:")
            await show(config, "demo-session")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
            provider.close()


def _configuration(directory: Path, provider_port: int) -> tuple[Config, Mapping[str, str]]:
    own = {
        "AGENT_TELEMETRY__DATA_DIR": str(directory),
        "AGENT_TELEMETRY__GATEWAY__LISTEN": f"127.0.0.1:{_free_port()}",
        "AGENT_TELEMETRY__ADMIN__LISTEN": f"127.0.0.1:{_free_port()}",
        "AGENT_TELEMETRY__UPSTREAMS__DEMO__URL": f"http://127.0.0.1:{provider_port}",
    }
    return load(None, own), {**_inherited(), **own}


def _inherited() -> dict[str, str]:
    """The environment without settings of this program, which the demonstration chooses itself."""
    ours = ("AGENT_TELEMETRY", "DATABASE_URL")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _until_ready(config: Config, process: asyncio.subprocess.Process) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_S
    while loop.time() < deadline and process.returncode is None:
        if await gateway_answers(config.gateway.listen) and await is_ready(config):
            return
        await asyncio.sleep(0.05)
    raise ProxyError("gateway or database did not start; run `agent-telemetry serve` to see why")


async def _agent(config: Config, say: Callable[[str], None]) -> None:
    """An agent's loop: ask, run the tool that the model calls, answer with its result."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": QUESTION},
    ]
    say(f"user:  {QUESTION}")
    while True:
        answer = await _complete(config, messages)
        messages.append(answer)
        if "tool_calls" not in answer:
            say(f"model: {answer['content']}")
            return
        for call in answer["tool_calls"]:
            function = call["function"]
            say(f"model: calls {function['name']}({function['arguments']})")
            result = "12 °C, light rain"
            say(f"tool:  {result}")
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


async def _complete(config: Config, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """One streamed chat completion through the gateway, put together to a message."""
    host, _, port = config.gateway.listen.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = orjson.dumps(
        {
            "model": _MODEL,
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [TOOL],
            "messages": messages,
        }
    )
    writer.write(
        b"POST /p/demo/s/demo-session/demo/v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n"
        b"Content-Type: application/json\r\nAuthorization: Bearer sk-demo-not-a-real-key-000\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    async for line in _lines(reader):
        if line.startswith(b"data: {"):
            for choice in orjson.loads(line[6:])["choices"]:
                _add(message, choice["delta"])
    writer.close()
    return message


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while line := await reader.readline():
        yield line.strip()


def _add(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    message["content"] += delta.get("content") or ""
    for part in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        if part["index"] == len(calls):
            calls.append({"id": part["id"], "type": "function", "function": dict(part["function"])})
        else:
            calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]


async def _provide(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The fake provider: a tool call first, an answer once it sees the tool's result."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = orjson.loads(await reader.readexactly(_content_length(head)))
            has_result = any(message["role"] == "tool" for message in body["messages"])
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            for event in _answer() if has_result else _tool_call():
                await asyncio.sleep(
                    0.03
                )  # a model takes its time; so do the columns ttft and duration
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await writer.drain()
    writer.close()


def _content_length(head: bytes) -> int:
    fields = (line.partition(b":") for line in head.split(b"\r\n"))
    return next(int(value) for name, _, value in fields if name.lower() == b"content-length")


def _tool_call() -> list[bytes]:
    call = {"index": 0, "id": "call_demo_1", "type": "function"}
    first = {**call, "function": {"name": "get_weather", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": text}} for text in ('{"city":', ' "Bergen"}')]
    deltas = [{"tool_calls": [part]} for part in (first, *more)]
    return _events(deltas, "tool_calls", {"prompt_tokens": 61, "completion_tokens": 15})


def _answer() -> list[bytes]:
    words = ("It is 12 °C ", "with light rain ", "in Bergen. ", "Take an umbrella.")
    deltas = [{"content": word} for word in words]
    return _events(deltas, "stop", {"prompt_tokens": 90, "completion_tokens": 17})


def _events(deltas: list[Any], finish: str, usage: dict[str, int]) -> list[bytes]:
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({"choices": [], "usage": usage | {"total_tokens": sum(usage.values())}})
    common = {"id": _ID, "object": "chat.completion.chunk", "created": 0, "model": _MODEL}
    return [b"data: " + orjson.dumps(common | chunk) + b"\n\n" for chunk in chunks] + [
        b"data: [DONE]\n\n"
    ]
