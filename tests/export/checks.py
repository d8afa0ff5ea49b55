"""What the consumers of each format ask of one line, as their documentation has it."""

from __future__ import annotations

import json
import re
from itertools import pairwise

from google.genai import types as genai
from pydantic import TypeAdapter

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ID = re.compile(r"[A-Za-z0-9_-]+")
CONTENTS = TypeAdapter(list[genai.Content])  # knows no other members than the documented ones
GEMINI_TOOLS = TypeAdapter(list[genai.Tool])


def openai(line):
    """Supervised fine-tuning, or a preference pair: roles, calls with their results, tools."""
    if "input" in line:
        assert set(line) == {"input", "preferred_output", "non_preferred_output"}
        for name in ("preferred_output", "non_preferred_output"):
            (answer,) = line[name]
            openai_messages([*line["input"]["messages"], answer])
        assert line["input"]["messages"][-1]["role"] != "assistant"
        openai_tools(line["input"])
        return
    assert set(line) <= {"messages", "tools", "parallel_tool_calls"}
    openai_messages(line["messages"])
    openai_tools(line)


def openai_messages(messages):
    assert messages[-1]["role"] == "assistant"
    assert any(message["role"] == "user" for message in messages)
    open_calls = []
    for message in messages:
        role = message["role"]
        if role == "tool":
            assert set(message) == {"role", "tool_call_id", "content"}
            assert isinstance(message["content"], str)
            open_calls.remove(message["tool_call_id"])
            continue
        assert not open_calls, "a call without its result"
        if role == "assistant":
            open_calls = openai_answer(message)
        else:
            assert role in ("system", "user")
            assert set(message) == {"role", "content"}
            openai_content(message["content"], can_show=role == "user")


def openai_answer(message):
    assert set(message) <= {"role", "content", "tool_calls", "weight"}
    assert isinstance(message["content"], str) or (
        message["content"] is None and "tool_calls" in message
    )
    calls = message.get("tool_calls", [])
    assert calls or "tool_calls" not in message
    for call in calls:
        assert set(call) == {"id", "type", "function"}
        assert call["type"] == "function"
        assert set(call["function"]) == {"name", "arguments"}
        assert NAME.fullmatch(call["function"]["name"])
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
    ids = [call["id"] for call in calls]
    assert len(set(ids)) == len(ids)
    assert all(ids)
    return ids


def openai_content(content, *, can_show):
    if isinstance(content, str):
        return
    assert can_show
    assert content
    for part in content:
        assert part["type"] in ("text", "image_url")
        if part["type"] == "image_url":
            assert part["image_url"]["url"].startswith(("https:", "http:", "data:image/"))


def openai_tools(line):
    names = [tool["function"]["name"] for tool in line.get("tools", [])]
    assert len(set(names)) == len(names)
    for tool in line.get("tools", []):
        assert set(tool) == {"type", "function"}
        assert NAME.fullmatch(tool["function"]["name"])
        assert isinstance(tool["function"]["parameters"], dict)


def trl(line):
    """Conversational: `messages`, or `prompt`, `chosen`, `rejected`; `tools` beside them."""
    if "prompt" in line:
        assert set(line) <= {"prompt", "chosen", "rejected", "tools"}
        for name in ("chosen", "rejected"):
            trl_messages([*line["prompt"], *line[name]])
    else:
        assert set(line) <= {"messages", "tools"}
        trl_messages(line["messages"])
    openai_tools_of_any_name(line)


def trl_messages(messages):
    assert messages[-1]["role"] == "assistant"
    for message in messages:
        assert message["role"] in ("system", "user", "assistant", "tool")
        assert isinstance(message["content"], (str, list))
        for call in message.get("tool_calls", []):
            assert isinstance(call["function"]["arguments"], dict)
        assert "name" in message or message["role"] != "tool"


def openai_tools_of_any_name(line):
    for tool in line.get("tools", []):
        assert set(tool) == {"type", "function"}
        assert set(tool["function"]) <= {"name", "description", "parameters"}


def anthropic(line):
    """Messages: sides take turns, results directly after their calls, in the user's message."""
    assert set(line) <= {"system", "messages", "tools", "chosen", "rejected"}
    if "chosen" in line:
        for name in ("chosen", "rejected"):
            anthropic_messages(line["messages"] + line[name])
    else:
        anthropic_messages(line["messages"])
    for tool in line.get("tools", []):
        assert set(tool) <= {"name", "description", "input_schema"}
        assert tool["input_schema"]["type"] == "object"


def anthropic_messages(messages):
    roles = [message["role"] for message in messages]
    assert roles[-1] == "assistant"
    assert all(one != other for one, other in pairwise(roles))
    open_calls = set()
    for message in messages:
        blocks = message["content"]
        assert blocks
        results = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        assert results == open_calls
        uses = [block for block in blocks if block["type"] == "tool_use"]
        open_calls = {block["id"] for block in uses}
        assert len(open_calls) == len(uses)
        assert all(ID.fullmatch(id) for id in open_calls)
        for block in blocks:
            assert block["type"] in (
                *("text", "thinking", "tool_use", "tool_result", "image", "document"),
            )
            assert block["type"] != "text" or block["text"].strip()


def gemini(line):
    """Contents of Vertex AI's tuning data, in nothing but documented members."""
    assert set(line) <= {"systemInstruction", "contents", "tools", "completions"}
    contents = CONTENTS.validate_python(line["contents"])
    GEMINI_TOOLS.validate_python(line.get("tools", []))
    if "completions" in line:
        assert [each["score"] for each in line["completions"]] == [1.0, 0.0]
        for each in line["completions"]:
            CONTENTS.validate_python([each["completion"]])
            assert each["completion"]["role"] == "model"
    else:
        assert contents[-1].role == "model"
    roles = [content.role for content in contents]
    assert set(roles) <= {"user", "model"}
    assert all(one != other for one, other in pairwise(roles))
    for before, after in pairwise(contents):
        calls = [part.function_call.name for part in before.parts if part.function_call]
        results = [part.function_response.name for part in after.parts if part.function_response]
        assert sorted(calls) == sorted(results)


def sharegpt(line):
    """Turns of `from` and `value`; the model's last, or two of them beside the prompt."""
    assert set(line) <= {"conversations", "tools", "chosen", "rejected"}
    turns = line["conversations"] + ([line["chosen"]] if "chosen" in line else [])
    assert turns[-1]["from"] == "gpt"
    for turn in turns:
        assert set(turn) == {"from", "value"}
        assert turn["from"] in ("system", "human", "gpt", "tool")
        assert turn["value"]
    assert isinstance(json.loads(line.get("tools", "[]")), list)


def jsonl(line):
    """As the view agent_training has it."""
    if "prompt" in line:
        trl(line)
        return
    assert set(line["input_context"]) == {"system", "messages", "tools"}
    assert set(line["target_output"]) == {"text", "thoughts", "tool_calls"}


CHECKS = {
    "openai": openai,
    "trl": trl,
    "anthropic": anthropic,
    "gemini": gemini,
    "sharegpt": sharegpt,
    "jsonl": jsonl,
}


def messages_of(line):
    """The messages of a conversation, in whatever format, with what stands before them."""
    if "contents" in line:
        return [line.get("systemInstruction"), *line["contents"]]
    if "input_context" in line:
        context = line["input_context"]
        return [context["system"], *context["messages"], line["target_output"]]
    return [line.get("system"), *line.get("messages", line.get("conversations", []))]
