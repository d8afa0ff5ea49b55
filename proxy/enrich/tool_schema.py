"""Tool schemas as an OpenAI model reads them, so that their tokens can be counted.

OpenAI turns function definitions into TypeScript in front of the conversation ("functions are
injected into the system message in a syntax the model has been trained on", Function calling).
The rendering was worked out by others from reported token counts; it is exact for plain schemas
and close for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from proxy.call import Json

DEPTH_MAX = 16


def written(value: Json) -> str:
    """A value as JSON text, or what comes nearest to it."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # lone surrogates, integers over 64 bits, too deep
        pass
    try:
        return repr(value)
    except RecursionError:
        return ""


def as_typescript(tools: list[Json]) -> str:
    """The namespace that stands for these tools, in either API's shape; '' without functions."""
    lines = [line for tool in tools for line in _function(tool)]
    if not lines:
        return ""
    return "\n".join(["namespace functions {", "", *lines, "} // namespace functions"])


def _function(tool: Json) -> Iterator[str]:
    if not isinstance(tool, dict):
        return
    nested = tool.get("function")
    function = nested if isinstance(nested, dict) else tool
    name = function.get("name")
    if not isinstance(name, str):
        return
    if description := function.get("description"):
        yield f"// {description}"
    schema = function.get("parameters")
    if isinstance(schema, dict) and schema.get("properties"):
        yield f"type {name} = (_: {{"
        yield from _properties(schema, 0)
        yield "}) => any;"
    else:
        yield f"type {name} = () => any;"
    yield ""


def _properties(schema: dict[str, Json], depth: int) -> Iterator[str]:
    properties = schema.get("properties")
    required = schema.get("required")
    needed = required if isinstance(required, list) else []
    for name, value in properties.items() if isinstance(properties, dict) else ():
        given = value if isinstance(value, dict) else {}
        # Descriptions are read two levels deep; below that they are left out.
        if depth < 2 and (description := given.get("description")):
            yield f"// {description}"
        yield f"{name}{'' if name in needed else '?'}: {_type(given, depth)},"


def _type(schema: dict[str, Json], depth: int) -> str:
    if depth > DEPTH_MAX:
        return "any"
    choices = schema.get("enum")
    if isinstance(choices, list):
        return " | ".join(map(written, choices))
    options = schema.get("anyOf")
    if isinstance(options, list):
        return " | ".join(_type(o, depth + 1) for o in options if isinstance(o, dict))
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(str(one) for one in kind)
    if kind == "array":
        items = schema.get("items")
        return f"{_type(items, depth + 1)}[]" if isinstance(items, dict) else "any[]"
    if kind == "object":
        return "\n".join(["{", *_properties(schema, depth + 1), "}"])
    return "number" if kind == "integer" else str(kind or "any")
