"""A conversation out of the rows that hold it. Pure.

Most rows hold the whole context. Where the wire held only what was new (`capture.context =
"partial"`), the rows of the calls before it are needed too, in order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.call import Json
from proxy.export.history import joined, read_answer, read_history
from proxy.export.message import (
    Conversation,
    Message,
    Pair,
    Role,
    Unconvertible,
    without_thoughts,
)
from proxy.export.tools import read_tools

Row = Mapping[str, Any]


def conversation_of(rows: Sequence[Row], *, keeps_thoughts: bool) -> Conversation:
    """The context and answer of the last row. Raises Unconvertible."""
    history, answer = _parts(rows, keeps_thoughts=keeps_thoughts)
    messages = joined(history, answer)
    return Conversation(_system(rows), messages, read_tools(rows[-1]["request_params"]))


def pair_of(chosen: Sequence[Row], rejected: Row, *, keeps_thoughts: bool) -> Pair:
    """Two answers to the history of the chosen one. Raises Unconvertible."""
    history, answer = _parts(chosen, keeps_thoughts=keeps_thoughts)
    other = _answer(rejected)
    if not keeps_thoughts:
        (other,) = without_thoughts([other])
    if history[-1].role is Role.ASSISTANT:
        raise Unconvertible("the answers go on with one that the agent had begun")
    *before, one = joined(history, answer)
    two = joined(before, other)[-1]
    if (one.text, _called(one)) == (two.text, _called(two)):
        raise Unconvertible("both answers are the same")
    return Pair(_system(chosen), tuple(before), one, two, read_tools(chosen[-1]["request_params"]))


def as_recorded(rows: Sequence[Row], *, keeps_thoughts: bool) -> dict[str, Json]:
    """Context and answer in the provider's own shape, as the view `agent_training` has them."""
    row = rows[-1]
    output: dict[str, Json] = {
        "text": row["response_text"],
        "thoughts": row["response_thoughts"] if keeps_thoughts else None,
        "tool_calls": row["tool_calls"] or [],
    }
    return {
        "id": str(row["id"]),
        "project_id": row["project_id"],
        "session_id": row["session_id"],
        "turn_id": str(row["turn_id"]) if row["turn_id"] else None,
        "model_used": row["model_used"],
        "input_context": {
            "system": _system(rows),
            "messages": _history(rows),
            "tools": _tools(row["request_params"]),
        },
        "target_output": output,
    }


def _parts(rows: Sequence[Row], *, keeps_thoughts: bool) -> tuple[tuple[Message, ...], Message]:
    history, answer = read_history(_history(rows)), _answer(rows[-1])
    if not keeps_thoughts:
        history, (answer,) = without_thoughts(history), without_thoughts([answer])
    if not any(message.role is Role.USER for message in history):
        raise Unconvertible("nobody asked anything")
    return history, answer


def _answer(row: Row) -> Message:
    return read_answer(row["response_text"], row["response_thoughts"], row["tool_calls"])


def _called(message: Message) -> list[tuple[str, str]]:
    return [(call.name, json.dumps(call.arguments, sort_keys=True)) for call in message.calls]


def _system(rows: Sequence[Row]) -> str:
    """The instructions: the last that were given."""
    return next((row["system_prompt"] for row in reversed(rows) if row["system_prompt"]), "")


def _history(rows: Sequence[Row]) -> list[Json]:
    found: list[Json] = []
    for row in rows[:-1]:
        found += [*row["chat_history"], *_items(row)]
    return found + list(rows[-1]["chat_history"])


def _items(row: Row) -> list[Json]:
    """An answer as the items that the provider remembered it by (OpenAI Responses)."""
    found: list[Json] = []
    if row["response_thoughts"]:
        summary: Json = [{"type": "summary_text", "text": row["response_thoughts"]}]
        found.append({"type": "reasoning", "summary": summary})
    if row["response_text"]:
        content: Json = [{"type": "output_text", "text": row["response_text"]}]
        found.append({"type": "message", "role": "assistant", "content": content})
    for call in row["tool_calls"] or ():
        if not call.get("server"):
            found.append(_call_item(call))
    return found


def _call_item(call: Mapping[str, Any]) -> Json:
    arguments = call.get("raw")
    if arguments is None:
        given = call["arguments"]
        arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return {
        "type": "function_call",
        "call_id": call["id"],
        "name": call["name"],
        "arguments": arguments,
    }


def _tools(params: Any) -> Json:
    """What the view's expression gives."""
    given = params or {}
    if "tools" in given:
        found: Json = given["tools"]
        return found
    config = given.get("toolConfig")
    return config["tools"] if isinstance(config, dict) and "tools" in config else []
