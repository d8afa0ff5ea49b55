"""WebSockets that carry secrets: one canary per channel in the handshake and in the frames.

As in `canaries`, those of the handshake may be any text; those of frames have a shape that the
rules know, or are copies of the socket's own credential. A provider on a socket of its own answers
each plan's messages with the events that the plan holds, in frames of any size.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.e2e.canaries import SHAPES, parts, rng, some

Event = dict[str, Any]
KEY_PROTOCOL = "openai-insecure-api-key."  # how a browser's page gives its key


@dataclass
class Socket:
    """One WebSocket: what the agent says, and the events that answer each message."""

    path: str
    headers: dict[str, str]
    protocols: list[str]
    compression: str | None
    turns: list[tuple[Event, list[Event]]]
    rows: int
    in_head: list[str]  # canaries that may not reach the disk
    in_frames: list[str]  # those of the head among them, if copied


def socket(number: int) -> Socket:
    """The n-th socket: Responses and Realtime in turn, each third compressed."""
    lengths = (rng.randint(20, 60) for _ in range(5))
    authorization, protocol_key, parameter, token, other_key = map(some, lengths)
    shapes = iter([SHAPES[(number + n) % len(SHAPES)]() for n in range(12)])
    own = f"{authorization} and {protocol_key}"
    is_realtime = number % 2 == 1
    given = {name: next(shapes) for name in ("instructions", "text", "tool", "call", "result")}
    told = {name: next(shapes) for name in ("thought", "said", "arguments", "error", "cut")}
    make = _realtime if is_realtime else _responses
    turns = make(given | told, own, fails=number % 4 >= 2)
    return Socket(
        f"/t/{token}/live/v1/{'realtime' if is_realtime else 'responses'}?trace={parameter}",
        {
            "authorization": f"Bearer {authorization}",
            "x-socket": str(number),
            "x-telemetry-label-note": f"with {other_key}",
        },
        [
            *(["realtime"] if is_realtime else []),
            *((f"{KEY_PROTOCOL}{protocol_key}",) if number % 3 else ("bearer", protocol_key)),
            *("access_token", other_key),
        ],
        "deflate" if number % 3 == 0 else None,
        turns,
        sum(message["type"] == "response.create" for message, _ in turns),
        [parameter, token, other_key],
        [authorization, protocol_key, *given.values(), *told.values()],
    )


def _responses(secret: dict[str, str], own: str, *, fails: bool) -> list[tuple[Event, list[Event]]]:
    """A response with everything, then one that fails or is cut."""
    arguments = json.dumps({"key": secret["call"]})
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": f"{secret['text']}, {own}"}]},
        {"type": "function_call", "call_id": "c0", "name": "env", "arguments": arguments},
        {"type": "function_call_output", "call_id": "c0", "output": f"TOKEN={secret['result']}"},
    ]
    asked = {
        "type": "response.create",
        "model": "gpt-5",
        "instructions": f"use {secret['instructions']}",
        "input": items,
        "tools": [{"type": "function", "name": "env", "description": secret["tool"]}],
    }
    again = {"type": "response.create", "model": "gpt-5", "input": "again"}
    return [(asked, _answer(secret, own, "response.completed")), (again, _end(secret, own, fails))]


def _realtime(secret: dict[str, str], own: str, *, fails: bool) -> list[tuple[Event, list[Event]]]:
    """A session that is set up by events, then a response with everything, then one more."""
    session = {
        "instructions": f"use {secret['instructions']}",
        "tools": [{"type": "function", "name": "env", "description": secret["tool"]}],
    }
    content = [{"type": "input_text", "text": f"{secret['text']}, {own}"}]
    items: list[Event] = [
        {"id": "i1", "type": "message", "role": "user", "content": content},
        {"id": "i2", "type": "function_call", "call_id": "c0", "name": "env"},
        {"id": "i3", "type": "function_call_output", "call_id": "c0", "output": secret["result"]},
    ]
    items[1]["arguments"] = json.dumps({"key": secret["call"]})
    ask: Event = {"type": "response.create"}
    return [
        (
            {"type": "session.update", "session": session},
            [{"type": "session.updated", "session": session}],
        ),
        *(
            (
                {"type": "conversation.item.create", "item": item},
                [{"type": "conversation.item.added", "item": item}],
            )
            for item in items
        ),
        (ask, _answer(secret, own, "response.done")),
        (ask | {"event_id": "e1"}, _end(secret, own, fails)),
    ]


def _answer(secret: dict[str, str], own: str, last: str) -> list[Event]:
    """Thoughts, words and a tool call, each in pieces and then whole."""
    said, thought = f"it is {secret['said']}, {own}", f"hm {secret['thought']}"
    arguments = json.dumps({"command": f"login {secret['arguments']}"})
    spoken = last == "response.done"
    part = {"type": "output_audio", "transcript": said} if spoken else {"text": said}
    item = {"type": "message", "id": "m1", "role": "assistant", "content": [part]}
    call = {"type": "function_call", "id": "f1", "call_id": "c1", "name": "sh"}
    reasoning = {"type": "reasoning", "id": "r1", "summary": [{"text": thought}]}
    word = "response.output_audio_transcript.delta" if spoken else "response.output_text.delta"
    response = {"id": "resp_1", "object": "response", "model": "gpt-5", "output": []}
    output = [reasoning, item, call | {"arguments": arguments}]
    usage = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
    return [
        {"type": "response.created", "response": response},
        *_deltas("response.reasoning_summary_text.delta", "r1", 0, thought),
        *_deltas(word, "m1", 1, said),
        *_deltas("response.function_call_arguments.delta", "f1", 2, arguments),
        *(
            {"type": "response.output_item.done", "output_index": n, "item": done}
            | {"response_id": "resp_1"}
            for n, done in enumerate(output)
        ),
        {"type": last, "response": response | _final(output, usage)},
    ]


def _final(output: list[Event], usage: Event) -> Event:
    return {"status": "completed", "output": output, "usage": usage}


def _end(secret: dict[str, str], own: str, fails: bool) -> list[Event]:
    """An error that quotes secrets, or the beginning of an answer that never ends."""
    if fails:
        message = f"Incorrect API key provided: {secret['error']}, {own}"
        error = {"type": "invalid_request_error", "message": message, "event_id": "e1"}
        return [{"type": "error", "status": 401, "error": error}]
    response = {"id": "resp_2", "object": "response", "model": "gpt-5", "output": []}
    return [
        {"type": "response.created", "response": response},
        *_deltas("response.output_text.delta", "m2", 0, f"cut {secret['cut']}", "resp_2"),
    ]


def _deltas(kind: str, item: str, index: int, text: str, response: str = "resp_1") -> list[Event]:
    where = {"item_id": item, "output_index": index, "response_id": response}
    return [{"type": kind, "delta": piece, **where} for piece in parts(text)]


def _fragments(event: Event) -> Iterator[str]:
    """The message in frames of any length."""
    yield from parts(json.dumps(event))


def _open_protocol(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return next((name for name in offered if name == "realtime"), None)


@asynccontextmanager
async def answering(sockets: list[Socket]) -> AsyncIterator[str]:
    """A provider that answers each message with the events planned for it."""

    async def script(connection: ServerConnection) -> None:
        assert connection.request is not None
        planned = sockets[int(connection.request.headers["x-socket"])]
        numbers = itertools.count()
        async for _ in connection:
            _, events = planned.turns[next(numbers)]
            for event in events:
                await connection.send(_fragments(event))

    async with serve(script, "127.0.0.1", 0, select_subprotocol=_open_protocol) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def talk(url: str, sockets: list[Socket]) -> None:
    """Every socket through the gateway; each event arrives as the provider sent it."""
    for planned in sockets:
        async with connect(
            url.replace("http", "ws", 1) + planned.path,
            additional_headers=planned.headers,
            subprotocols=[Subprotocol(name) for name in planned.protocols],
            compression=planned.compression,
        ) as connection:
            for message, events in planned.turns:
                await connection.send(_fragments(message))
                for event in events:
                    assert json.loads(await connection.recv()) == event
