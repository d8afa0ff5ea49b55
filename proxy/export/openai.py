"""OpenAI's fine-tuning format, and TRL's, which is close to it. Pure.

OpenAI (supervised and preference): arguments are JSON text, names of functions are of
`[A-Za-z0-9_-]{1,64}`, pictures stand in users' messages only, there is no place for thoughts.
TRL: arguments are objects, results carry the tool's name, thoughts stand in `thinking`.

Sources: https://platform.openai.com/docs/guides/supervised-fine-tuning and .../direct-preference-
optimization, https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from proxy.call import Json
from proxy.export import written
from proxy.export.message import (
    Called,
    Conversation,
    Media,
    Message,
    Pair,
    Result,
    Role,
    Tool,
    Unconvertible,
)

_WEB = ("https:", "http:")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Members = dict[str, Json]


def conversation(given: Conversation) -> Members:
    """One line for supervised fine-tuning."""
    return {"messages": _openai(given.system, given.messages), **_openai_tools(given.tools)}


def pair(given: Pair) -> Members:
    """One line for direct preference optimization."""
    prompt: Members = {"messages": _openai(given.system, given.messages)}
    return {
        "input": prompt | _openai_tools(given.tools),
        "preferred_output": _openai("", [given.chosen]),
        "non_preferred_output": _openai("", [given.rejected]),
    }


def trl_conversation(given: Conversation) -> Members:
    """One line of TRL's conversational language modeling type."""
    return {"messages": _trl(given.system, given.messages), **_trl_tools(given.tools)}


def trl_pair(given: Pair) -> Members:
    """One line of TRL's conversational preference type."""
    return {
        "prompt": _trl(given.system, given.messages),
        "chosen": _trl("", [given.chosen]),
        "rejected": _trl("", [given.rejected]),
        **_trl_tools(given.tools),
    }


def _openai(system: str, messages: Sequence[Message]) -> list[Json]:
    return [*_system(system), *(found for each in messages for found in _openai_message(each))]


def _trl(system: str, messages: Sequence[Message]) -> list[Json]:
    return [*_system(system), *(found for each in messages for found in _trl_message(each))]


def _system(text: str) -> list[Json]:
    return [{"role": "system", "content": text}] if text else []


def _openai_message(message: Message) -> Iterator[Json]:
    if message.role is Role.TOOL:
        for result in message.results:
            if any(isinstance(part, Media) for part in result.content):
                raise Unconvertible("a tool's result holds media, which this format cannot")
            yield {"role": "tool", "tool_call_id": result.id, "content": _words(result)}
        return
    if message.role is Role.ASSISTANT:
        if message.media:
            raise Unconvertible("an answer holds media, which this format cannot")
        calls: list[Json] = [_openai_call(call) for call in message.calls]
        found: Members = {"role": "assistant", "content": message.text or None}
        yield found | ({"tool_calls": calls} if calls else {})
        return
    if not all(map(_is_picture, message.media)):
        raise Unconvertible("sound, a file or a stored picture, which this format cannot hold")
    yield {"role": message.role.value, "content": _content(message)}


def _trl_message(message: Message) -> Iterator[Json]:
    if message.role is Role.TOOL:
        for result in message.results:
            media = tuple(part for part in result.content if isinstance(part, Media))
            content = _words(result)
            yield {
                "role": "tool",
                "tool_call_id": result.id,
                "name": result.name,
                "content": _parts(content, media) if media else content,
            }
        return
    found: Members = {"role": message.role.value, "content": _content(message)}
    if message.thoughts:
        found["thinking"] = message.thoughts
    if message.calls:
        found["tool_calls"] = [_trl_call(call) for call in message.calls]
    yield found


def _openai_call(call: Called) -> Json:
    text = call.text
    if text is None or not written.is_object(text):
        text = json.dumps(call.arguments, ensure_ascii=False)
    function: Members = {"name": _name(call.name), "arguments": text}
    return {"id": call.id, "type": "function", "function": function}


def _trl_call(call: Called) -> Json:
    function: Members = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Unconvertible("the name of a tool is not of letters, digits, _ and -, at most 64")
    return name


def _words(result: Result) -> str:
    return "\n\n".join(part.text for part in result.content if not isinstance(part, Media))


def _content(message: Message) -> Json:
    """Words alone as a string; with media, parts."""
    return _parts(message.text, message.media) if message.media else message.text


def _parts(text: str, media: Sequence[Media]) -> list[Json]:
    words: list[Json] = [{"type": "text", "text": text}] if text else []
    return [*words, *map(_medium, media)]


def _medium(medium: Media) -> Json:
    if medium.kind == "image":
        return {"type": "image_url", "image_url": {"url": url_of(medium)}}
    if medium.kind == "audio" and medium.data is not None:
        name = {"audio/wav": "wav", "audio/mpeg": "mp3"}.get(medium.media_type, medium.media_type)
        return {"type": "input_audio", "input_audio": {"data": medium.data, "format": name}}
    file: Members = {"file_data": url_of(medium)}
    return {"type": "file", "file": file | ({"filename": medium.name} if medium.name else {})}


def _is_picture(medium: Media) -> bool:
    """Whether OpenAI can see it: a picture that is at hand or on the web."""
    is_near = medium.url is None and medium.media_type.startswith("image/")
    return medium.kind == "image" and (is_near or (medium.url or "").startswith(_WEB))


def url_of(medium: Media) -> str:
    """Where the medium lies, or the medium itself as a data URL."""
    return medium.url or f"data:{medium.media_type};base64,{medium.data}"


def _openai_tools(tools: Sequence[Tool]) -> Members:
    for tool in tools:
        _name(tool.name)
    return _trl_tools(tools)


def _trl_tools(tools: Sequence[Tool]) -> Members:
    return {"tools": [as_function(tool) for tool in tools]} if tools else {}


def as_function(tool: Tool) -> Json:
    """The tool as OpenAI declares functions."""
    function: Members = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function | {"parameters": tool.parameters}}
