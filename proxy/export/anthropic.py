"""Anthropic's messages: content in blocks, results of tools in users' messages. Pure.

Source: https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from proxy.call import Json
from proxy.export.message import (
    Called,
    Conversation,
    Media,
    Message,
    Pair,
    Part,
    Result,
    Role,
    Text,
    Thought,
    Tool,
    Unconvertible,
)

_ID = re.compile(r"[^A-Za-z0-9_-]")

Members = dict[str, Json]


def conversation(given: Conversation) -> Members:
    """The body of a request with its answer at the end."""
    return _body(given.system, given.tools) | {"messages": _messages(given.messages)}


def pair(given: Pair) -> Members:
    """The body of a request, and two answers."""
    return _body(given.system, given.tools) | {
        "messages": _messages(given.messages),
        "chosen": _messages([given.chosen]),
        "rejected": _messages([given.rejected]),
    }


def _body(system: str, tools: Sequence[Tool]) -> Members:
    found: Members = {"system": system} if system else {}
    return found | ({"tools": [_tool(tool) for tool in tools]} if tools else {})


def _tool(tool: Tool) -> Json:
    described: Members = {"description": tool.description} if tool.description else {}
    kind: Members = {"type": "object"}
    return {"name": tool.name, **described, "input_schema": kind | tool.parameters}


def _messages(messages: Sequence[Message]) -> list[Json]:
    """Messages with roles that take turns: those of one side in a row are one."""
    sides: list[tuple[str, list[Json]]] = []
    for message in messages:
        side = "assistant" if message.role is Role.ASSISTANT else "user"
        blocks = list(_blocks(message))
        if sides and sides[-1][0] == side:
            sides[-1][1].extend(blocks)
        elif blocks:
            sides.append((side, blocks))
    return [{"role": side, "content": blocks} for side, blocks in sides]


def _blocks(message: Message) -> Iterator[Json]:
    if message.role is Role.SYSTEM:  # there is no such role: as clients put such texts in
        yield {"type": "text", "text": f"<system-reminder>\n{message.text}\n</system-reminder>"}
        return
    for part in message.parts:
        if not (isinstance(part, Text) and not part.text.strip()):  # blank blocks are refused
            yield _block(part)


def _block(part: Part) -> Json:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Thought):
        signed: Members = {"signature": part.signature} if part.signature else {}
        return {"type": "thinking", "thinking": part.text, **signed}
    if isinstance(part, Called):
        id = _id(part.id)
        return {"type": "tool_use", "id": id, "name": part.name, "input": part.arguments}
    if isinstance(part, Result):
        return _result(part)
    return _medium(part)


def _result(result: Result) -> Json:
    content = [_block(part) for part in result.content if part != Text("")]
    failed: Members = {"is_error": True} if result.is_error else {}
    return {
        "type": "tool_result",
        "tool_use_id": _id(result.id),
        "content": content,
        **failed,
    }


def _id(id: str) -> str:
    return _ID.sub("_", id)


def _medium(medium: Media) -> Json:
    kind = {"image": "image", "file": "document"}.get(medium.kind)
    if kind is None:
        raise Unconvertible("sound or video, which this format cannot hold")
    source: Members = {"type": "url", "url": medium.url}
    if medium.url is None:
        source = {"type": "base64", "media_type": medium.media_type, "data": medium.data}
    return {"type": kind, "source": source}
