"""ShareGPT's conversations, with tool calls in the tags that Hermes introduced. Pure.

    {"conversations": [{"from": "system" | "human" | "gpt" | "tool", "value": text}, …],
     "tools": JSON text of OpenAI's function schemas}

Calls stand in `<tool_call>`, results in `<tool_response>`, thoughts in `<think>`. A preference pair
has the answers in `chosen` and `rejected`, as LLaMA-Factory reads them.

Sources: https://huggingface.co/datasets/NousResearch/hermes-function-calling-v1,
https://github.com/hiyouga/LLaMA-Factory/tree/main/data
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from proxy.call import Json
from proxy.export.message import (
    Conversation,
    Media,
    Message,
    Pair,
    Result,
    Role,
    Tool,
    Unconvertible,
)
from proxy.export.openai import as_function

_FROM = {Role.SYSTEM: "system", Role.USER: "human", Role.ASSISTANT: "gpt", Role.TOOL: "tool"}

Members = dict[str, Json]


def conversation(given: Conversation) -> Members:
    """One conversation."""
    return _prompt(given.system, given.messages, given.tools)


def pair(given: Pair) -> Members:
    """One history with two answers."""
    chosen, rejected = _turn(given.chosen), _turn(given.rejected)
    return _prompt(given.system, given.messages, given.tools) | {
        "chosen": chosen,
        "rejected": rejected,
    }


def _prompt(system: str, messages: Sequence[Message], tools: Sequence[Tool]) -> Members:
    turns: list[Json] = [{"from": "system", "value": system}] if system else []
    turns += map(_turn, messages)
    found: Members = {"conversations": turns}
    if tools:
        found["tools"] = _written([as_function(tool) for tool in tools])
    return found


def _turn(message: Message) -> Json:
    if message.media or any(isinstance(p, Media) for r in message.results for p in r.content):
        raise Unconvertible("media, which this format cannot hold")
    return {"from": _FROM[message.role], "value": "\n".join(_values(message))}


def _values(message: Message) -> Iterator[str]:
    if message.thoughts:
        yield f"<think>\n{message.thoughts}\n</think>\n"
    if message.text:
        yield message.text
    for call in message.calls:
        called: Members = {"name": call.name, "arguments": call.arguments}
        yield f"<tool_call>\n{_written(called)}\n</tool_call>"
    for result in message.results:
        yield f"<tool_response>\n{_written(_result(result))}\n</tool_response>"


def _result(result: Result) -> Members:
    words = [part.text for part in result.content if not isinstance(part, Media)]
    return {"tool_call_id": result.id, "name": result.name, "content": "\n\n".join(words)}


def _written(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)
