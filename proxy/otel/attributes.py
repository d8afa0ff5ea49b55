"""Attributes of spans, by the names of OpenTelemetry's GenAI conventions (1.41). Pure.

What the conventions have no name for stands under `agent_telemetry.*`. Content (instructions,
messages, arguments, results) is left out unless asked for; then messages are in the conventions'
own form, as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.genai import operation_name, provider_name

Row = Mapping[str, Any]
Value = str | bool | int | float | Sequence[str]

# request_params of any dialect → attribute. Dotted: inside of an object.
_PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}
_USAGE = {
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}
_FINE = frozenset({"completed", "user_aborted", "refused", "max_tokens"})


def requested_model(call: Row) -> str:
    """The model that was asked for; where it stood in the path alone, the one that answered."""
    asked = (call["request_params"] or {}).get("model")
    return asked if isinstance(asked, str) else str(call["model_used"])


def call_name(call: Row) -> str:
    return f"{operation_name(call['endpoint'])} {requested_model(call)}"


def call_error(call: Row) -> str | None:
    """`error.type`: the status where the provider gave one, else how the call ended."""
    if call["outcome"] in ("complete", None):
        return None
    status = call["status"]
    return str(status) if status is not None and status >= 400 else str(call["outcome"])


def turn_error(summary: Row) -> str | None:
    reason = str(summary["stop_reason"] or "").split(":")[0]
    return None if reason in _FINE else reason


def metric_labels(call: Row) -> dict[str, str]:
    """What tells the series of one call from others; bounded by models and providers."""
    found = {
        "gen_ai.operation.name": operation_name(call["endpoint"]),
        "gen_ai.provider.name": provider_name(call["provider"], call["endpoint"]),
        "gen_ai.request.model": requested_model(call),
        "gen_ai.response.model": str(call["model_used"]),
    }
    if error := call_error(call):
        found["error.type"] = error
    return found


def of_call(call: Row, *, with_content: bool) -> dict[str, Value]:
    """A `chat` span's attributes (or text_completion, generate_content)."""
    found: dict[str, Value] = {**metric_labels(call), **_whose(call)}
    found |= {_USAGE[name]: call[name] for name in _USAGE if call[name] is not None}
    params = call["request_params"] or {}
    for name, attribute in _PARAMETERS.items():
        value = params.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[attribute] = value
    found |= _given(
        {
            "gen_ai.request.stream": call["streamed"],
            "gen_ai.response.id": (call["capture"] or {}).get("response_id"),
            "gen_ai.response.time_to_first_chunk": _seconds(call["ttft_ms"]),
            "http.response.status_code": call["status"],
            "agent_telemetry.call.id": str(call["id"]),
            "agent_telemetry.call.outcome": call["outcome"],
            "agent_telemetry.call.round": call["round"],
            "agent_telemetry.cost_usd": _number(call["cost_usd"]),
            "agent_telemetry.provider_request_id": call["provider_request_id"],
        }
    )
    if call["finish_reason"]:
        found["gen_ai.response.finish_reasons"] = [call["finish_reason"]]
    return found | (_content(call) if with_content else {})


def agent_name(summary: Row) -> str | None:
    """The agent's name, where it says one: the label `agent`."""
    name = (summary["labels"] or {}).get("agent")
    return name if isinstance(name, str) and name else None


def of_turn(summary: Row, calls: Sequence[Row], *, with_content: bool) -> dict[str, Value]:
    """An `invoke_agent` span's attributes. Tokens are those of all calls."""
    last = calls[-1]
    found: dict[str, Value] = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": provider_name(last["provider"], last["endpoint"]),
        "gen_ai.request.model": requested_model(last),
        "gen_ai.response.model": str(summary["model_used"]),
        **_whose(summary),
    }
    found |= {_USAGE[name]: summary[name] for name in _USAGE if summary[name] is not None}
    found |= _given(
        {
            "error.type": turn_error(summary),
            "gen_ai.agent.name": agent_name(summary),
            "agent_telemetry.turn.stop_reason": summary["stop_reason"],
            "agent_telemetry.turn.rounds": summary["rounds"],
            "agent_telemetry.turn.tool_calls": summary["tool_call_count"],
            "agent_telemetry.cost_usd": _number(summary["cost_usd"]),
        }
    )
    if with_content:
        found |= _messages("gen_ai.input.messages", "user", summary["user_message"])
        found |= _messages("gen_ai.output.messages", "assistant", summary["response_text"])
    return found


def of_tool(result: Row, tool: Row, summary: Row, *, with_content: bool) -> dict[str, Value]:
    """An `execute_tool` span's attributes."""
    found: dict[str, Value] = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": str(result["name"] or "unknown"),
        "gen_ai.tool.type": "function",
        **_whose(summary),
    }
    found |= _given({"gen_ai.tool.call.id": result["id"]})
    if result["is_error"]:
        found["error.type"] = "tool_error"
    if with_content:
        found |= _given({"gen_ai.tool.call.result": _text(result["output"])})
        found |= _given({"gen_ai.tool.call.arguments": _text(tool.get("arguments"))})
    return found


def _whose(row: Row) -> dict[str, Value]:
    turn = row["turn_id"]
    found = _given(
        {
            "gen_ai.conversation.id": row["session_id"],
            "agent_telemetry.project": row["project_id"],
            "agent_telemetry.client": row["client"],
            "agent_telemetry.turn.id": str(turn) if turn else None,
        }
    )
    for name, value in (row["labels"] or {}).items():
        text = _text(value)
        if text is not None:
            found[f"agent_telemetry.label.{name}"] = text
    return found


def _content(call: Row) -> dict[str, Value]:
    """What was said. `input` and `output` are messages in the conventions' form."""
    found: dict[str, Value] = {}
    if call["system_prompt"]:
        found["gen_ai.system_instructions"] = _json(
            [{"type": "text", "content": call["system_prompt"]}]
        )
    for name in ("input", "output"):
        if call.get(name):
            found[f"gen_ai.{name}.messages"] = _json(call[name])
    tools = (call["request_params"] or {}).get("tools")
    return found | ({"gen_ai.tool.definitions": _json(tools)} if tools else {})


def _messages(name: str, role: str, text: str | None) -> dict[str, Value]:
    if not text:
        return {}
    return {name: _json([{"role": role, "parts": [{"type": "text", "content": text}]}])}


def _given(values: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if value is not None}


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str, separators=(",", ":"))
