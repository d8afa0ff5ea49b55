"""Tools as OpenAI shows them to its models."""

from __future__ import annotations

from proxy.call import Json
from proxy.enrich.tool_schema import as_typescript

WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state"},
                "format": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer"},
                "names": {"type": "array", "items": {"type": "string"}},
                "any": {"type": "array"},
                "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "both": {"type": ["string", "null"]},
                "free": True,
                "nested": {"type": "object", "properties": {"x": {"description": "deep"}}},
            },
            "required": ["location"],
        },
    },
}


def test_tools_are_rendered_as_typescript() -> None:
    bare: Json = {"type": "function", "name": "now"}
    assert as_typescript([WEATHER, bare, {"type": "web_search"}, "odd"]).splitlines() == [
        "namespace functions {",
        "",
        "// Get the current weather",
        "type get_current_weather = (_: {",
        "// The city and state",
        "location: string,",
        'format?: "celsius" | "fahrenheit",',
        "days?: number,",
        "names?: string[],",
        "any?: any[],",
        "either?: string | null,",
        "both?: string | null,",
        "free?: any,",
        "nested?: {",
        "// deep",
        "x?: any,",
        "},",
        "}) => any;",
        "",
        "type now = () => any;",
        "",
        "} // namespace functions",
    ]
    assert as_typescript([{"type": "web_search"}]) == ""


def test_schemas_that_never_end_are_cut() -> None:
    schema: Json = {"type": "string"}
    for _ in range(500):
        schema = {"type": "array", "items": schema}
    tool: Json = {"name": "f", "parameters": {"properties": {"a": schema}, "required": 7}}
    assert "any[][]" in as_typescript([tool])
