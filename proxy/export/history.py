"""History: messages in any provider's shape, as neutral ones. Pure.

Told by their shape alone, since one program may speak several dialects. Consecutive messages of
the model are one, as the items of OpenAI Responses are. What the provider's own tools did is left
out: no other model has them. Raises `Unconvertible` for what would be lost otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from proxy.call import Json
from proxy.export import written
from proxy.export.media import medium
from proxy.export.message import (
    Called,
    Media,
    Message,
    Part,
    Result,
    Role,
    Text,
    Thought,
    Unconvertible,
)
from proxy.export.pairing import paired

_ROLES = {
    **dict.fromkeys(("assistant", "model", "CHATBOT"), Role.ASSISTANT),
    **dict.fromkeys(("system", "developer", "SYSTEM"), Role.SYSTEM),
    **dict.fromkeys(("tool", "function"), Role.TOOL),
    **dict.fromkeys(("user", "USER", "human"), Role.USER),
}
# Items of Responses: calls that the client runs; the provider's own calls and what they listed.
_CALL_ITEMS = frozenset(
    {"function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call"}
    | {"computer_call"}
)
_ARGUMENTS = ("arguments", "input", "args", "action", "operation")
_USES = ("toolUse", "toolResult")
_SERVER_TYPES = ("server_tool_use", "nova_")  # what Bedrock's models run by themselves
_SERVER_PARTS = ("server_tool_use", "mcp_tool_use", "mcp_tool_result", "container_upload")
# What Gemini runs by itself, and marks of Bedrock's.
_SERVER_MEMBERS = (
    "executableCode",
    "codeExecutionResult",
    "toolCall",
    "toolResponse",
    "cachePoint",
)
_THOUGHT_NAMES = ("reasoning_content", "reasoning", "thinking", "tool_plan")


def read_history(history: Sequence[Json]) -> tuple[Message, ...]:
    """All messages of a history, every tool call with an id and every result with its call's."""
    found: list[Message] = []
    for message in history:
        for read in _message(message):
            last = found[-1] if found else None
            if last and last.role is read.role and read.role in (Role.ASSISTANT, Role.TOOL):
                found[-1] = Message(read.role, last.parts + read.parts)
            elif read.parts:
                found.append(read)
    return tuple(paired(found))


def read_answer(row_text: str | None, thoughts: str | None, calls: Json) -> Message:
    """The answer of a row: its columns `response_text`, `response_thoughts`, `tool_calls`."""
    parts: list[Part] = []
    if thoughts:
        parts.append(Thought(thoughts))
    if row_text:
        parts.append(Text(row_text))
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict) and call.get("server") is not True:
            text = call.get("raw")
            read = _called(call, "id")
            parts.append(replace(read, text=text) if isinstance(text, str) else read)
    if not any(isinstance(part, Called) or _has_words(part) for part in parts):
        raise Unconvertible("the answer has neither text nor a tool call")
    return Message(Role.ASSISTANT, tuple(parts))


def _has_words(part: Part) -> bool:
    return isinstance(part, Text) and not part.text.isspace()


def joined(messages: Sequence[Message], answer: Message) -> tuple[Message, ...]:
    """History and answer as one conversation, ids settled."""
    if messages and messages[-1].role is Role.ASSISTANT:  # an answer that the agent had begun
        merged = Message(Role.ASSISTANT, messages[-1].parts + answer.parts)
        return tuple(paired([*messages[:-1], merged]))
    return tuple(paired([*messages, answer]))


# --- messages and items ---


def _message(message: Json) -> Iterator[Message]:
    if isinstance(message, str):
        yield Message(Role.USER, (Text(message),))
        return
    if not isinstance(message, dict):
        raise Unconvertible("a message that is no object")
    kind = message.get("type")
    if isinstance(kind, str) and kind != "message" and "role" not in message:
        yield from _item(message, kind)
        return
    given = message.get("role") or "user"
    role = _ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise Unconvertible("a message of an unknown role")
    if role is Role.TOOL:
        yield Message(role, tuple(_tool_message(message)))
    elif role is Role.ASSISTANT:
        yield Message(role, tuple(_of_model(message)))
    else:
        yield from _of_person(role, message)


def _item(item: dict[str, Json], kind: str) -> Iterator[Message]:
    """An item of OpenAI Responses that is no message."""
    if kind.startswith("tool_search_"):  # which tools were looked up is no part of the talk
        return
    if kind.endswith("_output"):
        yield Message(Role.TOOL, (_result(item, "call_id", item.get("output")),))
    elif kind in _CALL_ITEMS:
        yield Message(Role.ASSISTANT, (_called(item, "call_id"),))
    elif kind == "reasoning":
        parts = _list(item.get("content")) or _list(item.get("summary"))
        thoughts = [Thought(text) for part in parts if (text := _text_of(part))]
        yield Message(Role.ASSISTANT, tuple(thoughts))
    elif kind in ("item_reference", "compaction", "compaction_summary", "context_compaction"):
        raise Unconvertible("the history refers to items that only the provider has")


def _tool_message(message: dict[str, Json]) -> Iterator[Result]:
    content = message.get("content")
    blocks = [part for part in _list(content) if isinstance(part, dict)]
    inner = [part for part in blocks if part.get("type") == "tool_result"]
    if inner:
        yield from (_result(part, "tool_use_id", part.get("content")) for part in inner)
    else:
        yield _result(message, "tool_call_id", content)


def _of_model(message: dict[str, Json]) -> Iterator[Part]:
    for name in _THOUGHT_NAMES:
        text = message.get(name)
        if isinstance(text, str) and text:
            yield Thought(text)
            break
    for part in _content(message):
        if isinstance(part, str):
            yield from [Text(part)] if part else []
        elif isinstance(part, dict):
            yield from _model_part(part)
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        yield Text(refusal)
    for call in [*_list(message.get("tool_calls")), message.get("function_call")]:
        if isinstance(call, dict):
            function = call.get("function")
            nested = function if isinstance(function, dict) else call.get("custom")
            inner = nested if isinstance(nested, dict) else call
            yield replace(_called(inner, "id"), id=_string(call.get("id")))


def _model_part(part: dict[str, Json]) -> Iterator[Part]:
    if _is_the_providers(part):
        return
    if part.get("type") == "tool_use":
        yield _called(part, "id")
    elif isinstance(use := part.get("functionCall", part.get("function_call")), dict):
        yield _called(use, "id")
    elif isinstance(use := part.get("toolUse"), dict):
        yield _called(use, "toolUseId")
    elif (thought := _thought(part)) is not None:
        yield from [thought] if thought.text else []
    elif isinstance(text := part.get("text", part.get("refusal")), str):
        yield from [Text(text)] if text else []
    else:
        yield _medium(part)


def _thought(part: dict[str, Json]) -> Thought | None:
    signature = part.get("signature")
    signed = signature if isinstance(signature, str) and signature else None
    if part.get("type") == "redacted_thinking":
        return Thought("")
    if part.get("type") == "thinking":
        thinking = part.get("thinking")
        text = thinking if isinstance(thinking, str) else "".join(map(_text_of, _list(thinking)))
        return Thought(text, signed)
    if part.get("thought") is True:
        return Thought(_string(part.get("text")))
    inner = part.get("reasoningContent")
    if isinstance(inner, dict):
        return Thought(_text_of(inner.get("reasoningText")))
    return None


def _of_person(role: Role, message: dict[str, Json]) -> Iterator[Message]:
    """A user's or system message; results of tools that stand in it come first, as their own."""
    results: list[Part] = []
    others: list[Part] = []
    for part in _content(message):
        if isinstance(part, str):
            others += [Text(part)] if part else []
        elif isinstance(part, dict) and (result := _result_part(part)) is not None:
            results.append(result)
        elif isinstance(part, dict) and (text := _typed(part)) is not None:
            others += [Text(text)] if text else []
        elif isinstance(part, dict) and not _is_the_providers(part):
            others.append(_medium(part))
    others += [_medium({"image": image}) for image in _list(message.get("images"))]
    if results:
        yield Message(Role.TOOL, tuple(results))
    if others:
        yield Message(role, tuple(others))


def _typed(part: dict[str, Json]) -> str | None:
    """The words of a part, also of a document that is plain text."""
    guarded, source = _of(_of(part, "guardContent"), "text"), _of(part, "source")
    document = source.get("data") if source.get("type") == "text" else None
    found = (part.get("text"), guarded.get("text"), document)
    return next((text for text in found if isinstance(text, str)), None)


def _result_part(part: dict[str, Json]) -> Result | None:
    if part.get("type") == "tool_result":
        return _result(part, "tool_use_id", part.get("content"))
    if isinstance(inner := part.get("toolResult"), dict):
        return _result(inner, "toolUseId", inner.get("content"))
    inner = part.get("functionResponse", part.get("function_response"))
    if isinstance(inner, dict):
        return _result(inner, "id", inner.get("response"))
    return None


def _is_the_providers(part: dict[str, Json]) -> bool:
    """Whether the provider's own tools, or its caching, made this part."""
    kind = part.get("type")
    return (
        kind in _SERVER_PARTS
        or (isinstance(kind, str) and kind.endswith("_tool_result"))
        or any(name in part for name in _SERVER_MEMBERS)
        or any(str(_of(part, use).get("type")).startswith(_SERVER_TYPES) for use in _USES)
        or not (part.keys() - {"thoughtSignature", "thought_signature"})
    )


def _medium(part: dict[str, Json]) -> Media:
    found = medium(part)
    if found is None:
        kind = part.get("type") or next(iter(part), "")
        raise Unconvertible(f"a part of an unknown kind: {str(kind)[:40]}")
    return found


# --- calls and results ---


def _called(call: dict[str, Json], id: str) -> Called:
    name = _string(call.get("name")) or _string(call.get("type")).removesuffix("_call")
    if not name:
        raise Unconvertible("a tool call without a name")
    given = next((call[key] for key in _ARGUMENTS if call.get(key) is not None), None)
    arguments, text = _arguments(given)
    return Called(_string(call.get(id)), name, arguments, text)


def _arguments(given: Json) -> tuple[dict[str, Json], str | None]:
    """Arguments as an object. A tool that takes plain text gets it under the name `input`."""
    if given is None or given == "":
        return {}, None
    if not isinstance(given, str):
        return (given if isinstance(given, dict) else {"input": given}), None
    try:
        value = written.read(given)
    except (ValueError, RecursionError):
        return {"input": given}, None
    return (value, given) if isinstance(value, dict) else ({"input": given}, None)


def _result(holder: dict[str, Json], id: str, content: Json) -> Result:
    name = holder.get("name") or holder.get("tool_name")
    is_error = holder.get("is_error") is True or holder.get("status") == "error"
    if isinstance(content, dict) and set(content) == {"error"}:
        is_error = True
    parts = tuple(_result_content(content))
    return Result(_string(holder.get(id)), _string(name), parts, is_error)


def _result_content(content: Json) -> Iterator[Text | Media]:
    if isinstance(content, str):
        yield Text(content)
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, str) or (isinstance(part, dict) and _text_of(part)):
                yield Text(_text_of(part))
            elif isinstance(part, dict) and (found := medium(part)) is not None:
                yield found
            elif part != {"type": "text", "text": ""}:
                yield Text(_written(part))
    elif content is not None:
        inner: Json = content
        if isinstance(content, dict) and len(content) == 1:
            inner = next(iter(content.values()))  # {"output": …}, {"result": …}, {"error": …}
        yield Text(inner if isinstance(inner, str) else _written(content))


# --- values ---


def _content(message: dict[str, Json]) -> list[Json]:
    content = message.get("content", message.get("parts"))
    if isinstance(content, list):
        return content
    return [] if content is None or content == "" else [content]


def _of(part: dict[str, Json], name: str) -> dict[str, Json]:
    value = part.get(name)
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _string(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _text_of(value: Json) -> str:
    if isinstance(value, dict):
        value = value.get("text")
    return _string(value)


def _written(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)
