"""Gemini's contents, as Vertex AI takes them for tuning. Pure.

Sources: https://cloud.google.com/vertex-ai/generative-ai/docs/models/gemini-supervised-tuning-prepare
and .../gemini-preference-tuning; https://ai.google.dev/api/caching#FunctionDeclaration
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxy.call import Json
from proxy.export import written
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
)

# What Gemini's own subset of a schema has; a richer one goes where any JSON schema may stand.
_SCHEMA_NAMES = frozenset(
    {"type", "format", "title", "description", "nullable", "enum", "maxItems", "minItems"}
    | {"properties", "required", "minProperties", "maxProperties", "minLength", "maxLength"}
    | {"pattern", "example", "anyOf", "propertyOrdering", "default", "items", "minimum", "maximum"}
)

Members = dict[str, Json]


def conversation(given: Conversation) -> Members:
    """One line for supervised tuning."""
    return _body(given.system, given.messages, given.tools)


def pair(given: Pair) -> Members:
    """One line for preference tuning."""
    answers = ((1.0, given.chosen), (0.0, given.rejected))
    completions: list[Json] = [
        {"score": score, "completion": _contents([answer])[0]} for score, answer in answers
    ]
    body = _body(given.system, given.messages, given.tools)
    return body | {"completions": completions}


def _body(system: str, messages: Sequence[Message], tools: Sequence[Tool]) -> Members:
    found: Members = {}
    if system:
        found["systemInstruction"] = {"role": "system", "parts": [{"text": system}]}
    found["contents"] = _contents(messages)
    if tools:
        found["tools"] = [{"functionDeclarations": [_tool(tool) for tool in tools]}]
    return found


def _contents(messages: Sequence[Message]) -> list[Json]:
    """Contents with roles that take turns: those of one side in a row are one."""
    sides: list[tuple[str, list[Json]]] = []
    for message in messages:
        side = "model" if message.role is Role.ASSISTANT else "user"
        parts = [found for part in message.parts for found in _part(part)]
        if sides and sides[-1][0] == side:
            sides[-1][1].extend(parts)
        elif parts:
            sides.append((side, parts))
    return [{"role": side, "parts": parts} for side, parts in sides]


def _part(part: Part) -> Iterator[Json]:
    if isinstance(part, Text):
        if part.text:
            yield {"text": part.text}
    elif isinstance(part, Thought):
        yield {"text": part.text, "thought": True}
    elif isinstance(part, Called):
        yield {"functionCall": {"name": part.name, "args": part.arguments}}
    elif isinstance(part, Result):
        yield {"functionResponse": {"name": part.name, "response": _response(part)}}
        yield from (_medium(each) for each in part.content if isinstance(each, Media))
    else:
        yield _medium(part)


def _response(result: Result) -> Json:
    """The result as the object that Gemini wants: itself where it is one."""
    text = "\n\n".join(part.text for part in result.content if isinstance(part, Text))
    if result.is_error:
        return {"error": text}
    try:
        value = written.read(text)
    except (ValueError, RecursionError):
        return {"output": text}
    return value if isinstance(value, dict) else {"output": text}


def _medium(medium: Media) -> Json:
    if medium.url is not None:
        kind = medium.media_type or "application/octet-stream"
        return {"fileData": {"mimeType": kind, "fileUri": medium.url}}
    return {"inlineData": {"mimeType": medium.media_type, "data": medium.data}}


def _tool(tool: Tool) -> Json:
    found: Members = {"name": tool.name}
    if tool.description:
        found["description"] = tool.description
    if not tool.parameters.get("properties"):
        return found
    schema = _schema(tool.parameters)
    if schema is None:
        return found | {"parametersJsonSchema": tool.parameters}
    return found | {"parameters": schema}


def _schema(schema: Json) -> Json:
    """The schema in Gemini's subset, with types in capitals; None where it says more."""
    if not isinstance(schema, dict) or schema.keys() - _SCHEMA_NAMES:
        return None
    found: Members = dict(schema)
    kind = schema.get("type")
    if isinstance(kind, str):
        found["type"] = kind.upper()
    elif kind is not None:
        return None
    properties = schema.get("properties")
    if isinstance(properties, dict):
        inner = {name: _schema(value) for name, value in properties.items()}
        if None in inner.values():
            return None
        found["properties"] = inner
    if "items" in schema and (items := _schema(schema["items"])) is None:
        return None
    elif "items" in schema:
        found["items"] = items
    if isinstance(schema.get("anyOf"), list) or not _has_plain_enum(schema):
        return None
    return found


def _has_plain_enum(schema: Members) -> bool:
    """Values to choose from are texts in Gemini's subset."""
    enum = schema.get("enum", [])
    return isinstance(enum, list) and all(isinstance(value, str) for value in enum)
