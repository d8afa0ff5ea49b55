"""Call: one row, whole, for a page of its own. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.views.web.text import cut, message_of
from proxy.views.web.trajectory import Tool

MESSAGES_MAX = 400  # the first and the last half of them
MESSAGE_CHARS = 40_000
WHOLE_CHARS = 400_000
FACTS = (
    *("record_type", "project_id", "session_id", "turn_id", "round", "parent_id", "client"),
    *("provider", "endpoint", "streamed", "status", "finish_reason", "stop_reason"),
    *("usage_source", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"),
    *("cache_write_tokens", "reasoning_tokens", "provider_request_id", "chat_mode", "turn_intent"),
)
VALUES = ("request_params", "usage", "labels", "tool_results", "capture")


def call_context(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of a row with all columns."""
    history = row["chat_history"] if isinstance(row["chat_history"], list) else []
    half = MESSAGES_MAX // 2
    shown = history if len(history) <= MESSAGES_MAX else [*history[:half], *history[-half:]]
    calls = row["tool_calls"] if isinstance(row["tool_calls"], list) else []
    return {
        "row": row,
        "facts": [(name, row[name]) for name in FACTS if row[name] is not None],
        "error": cut(row["error"], limit=MESSAGE_CHARS),
        "text": cut(row["response_text"], limit=WHOLE_CHARS),
        "thoughts": cut(row["response_thoughts"], limit=WHOLE_CHARS),
        "system": cut(row["system_prompt"], limit=WHOLE_CHARS),
        "tools": [_tool(call) for call in calls],
        "messages": [message_of(message, MESSAGE_CHARS) for message in shown],
        "not_shown": len(history) - len(shown),
        "values": [(name, cut(row[name], limit=WHOLE_CHARS)) for name in VALUES],
    }


def _tool(call: Any) -> Tool:
    given = call if isinstance(call, dict) else {"arguments": call}
    name = str(given.get("name") or "?")
    arguments = cut(given.get("arguments"), limit=MESSAGE_CHARS)
    return Tool(name, arguments, bool(given.get("server")), None)
