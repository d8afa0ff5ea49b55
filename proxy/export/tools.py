"""Tools: what a request offers its model, in any dialect's schema, as neutral ones. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.call import Json
from proxy.export.message import Tool

# Tools of a provider's own making: those that the client runs, told by their type alone; and those
# that the provider runs, which no other model has.
_CLIENT_TYPES = ("local_shell", "shell", "apply_patch")
_SERVER_TYPES = ("web_search", "web_fetch", "code_", "tool_search", "mcp", "file_search")
_SCHEMAS = ("parameters", "input_schema", "parametersJsonSchema", "parameters_json_schema")
_NO_PARAMETERS: dict[str, Json] = {"type": "object", "properties": {}}
_PLAIN_TEXT: dict[str, Json] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}


def read_tools(params: Json) -> tuple[Tool, ...]:
    """The tools in the parameters of a request, each name once. Never raises."""
    found: dict[str, Tool] = {}
    for tool in offered(params):
        for read in _tools(tool):
            found.setdefault(read.name, read)
    return tuple(found.values())


def offered(params: Json) -> list[Json]:
    """The tools as the request has them."""
    if not isinstance(params, dict):
        return []
    for holder in (params, params.get("toolConfig")):
        tools = holder.get("tools") if isinstance(holder, dict) else None
        if isinstance(tools, list):
            return tools
    functions = params.get("functions")
    return functions if isinstance(functions, list) else []


def _tools(tool: Json) -> Iterator[Tool]:
    if not isinstance(tool, dict):
        return
    declared = tool.get("functionDeclarations", tool.get("function_declarations"))
    for each in declared if isinstance(declared, list) else ():
        yield from _tools(each)
    for name in ("function", "custom", "toolSpec"):
        if isinstance(inner := tool.get(name), dict):
            yield from _named(inner, is_text=name == "custom")
            return
    yield from _named(tool, is_text=tool.get("type") == "custom" and "format" in tool)


def _named(tool: dict[str, Json], *, is_text: bool) -> Iterator[Tool]:
    name, kind = tool.get("name"), tool.get("type")
    if not isinstance(name, str) or not name:
        if kind in _CLIENT_TYPES:
            yield Tool(str(kind), "", _NO_PARAMETERS)
        return
    if isinstance(kind, str) and kind.startswith(_SERVER_TYPES):
        return
    description = tool.get("description")
    schema = _schema(tool)
    if schema is None:
        schema = _PLAIN_TEXT if is_text else _NO_PARAMETERS
    yield Tool(name, description if isinstance(description, str) else "", schema)


def _schema(tool: dict[str, Json]) -> dict[str, Json] | None:
    for name in _SCHEMAS:
        if isinstance(schema := tool.get(name), dict) and schema:
            return _plain(schema)
    inner = tool.get("inputSchema")
    if isinstance(inner, dict):
        schema = inner.get("json", inner)
        return _plain(schema) if isinstance(schema, dict) and schema else None
    return None


def _plain(schema: dict[str, Json]) -> dict[str, Json]:
    """The schema with the names of types in lower case, as JSON Schema has them."""
    return {name: _plain_member(name, value) for name, value in schema.items()}


def _plain_member(name: str, value: Json) -> Json:
    if name == "type" and isinstance(value, str):
        return value.lower()
    if isinstance(value, dict):
        if name == "properties":
            return {
                key: _plain(each) if isinstance(each, dict) else each for key, each in value.items()
            }
        return _plain(value) if name in ("items", "additionalProperties") else value
    if isinstance(value, list) and name in ("anyOf", "oneOf", "allOf"):
        return [_plain(each) if isinstance(each, dict) else each for each in value]
    return value
