"""What is read of calls and turns to be sent as spans. SQL, pure.

Content is read only where it is wanted: it is most of a row.
"""

from __future__ import annotations

_COLUMNS = (
    *("id", "created_at", "project_id", "session_id", "turn_id", "round", "parent_id", "provider"),
    *("endpoint", "model_used", "streamed", "status", "outcome", "finish_reason", "duration_ms"),
    *("ttft_ms", "prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens"),
    *("reasoning_tokens", "cost_usd", "client", "labels", "capture", "provider_request_id"),
)
_CONTENT = (*("system_prompt", "chat_history", "response_text", "response_thoughts", "tool_calls"),)
_BARE = "request_params - 'tools' AS request_params"
CALLS = f"""
SELECT {", ".join(_COLUMNS)}, {_BARE} FROM agent_telemetry_full
WHERE record_type = 'llm_call' AND (id = ANY($1) OR turn_id = ANY($2)) ORDER BY created_at, id
"""  # noqa: S608 - column names are this program's own
"""The calls with these ids, and those of these turns."""
CALLS_WITH_CONTENT = f"""
SELECT {", ".join(_COLUMNS)}, request_params, {", ".join(_CONTENT)} FROM agent_telemetry_full
WHERE record_type = 'llm_call' AND (id = ANY($1) OR turn_id = ANY($2)) ORDER BY created_at, id
"""  # noqa: S608 - column names are this program's own
SUMMARIES = """
SELECT * FROM agent_telemetry WHERE record_type = 'turn_summary' AND turn_id = ANY($1)
"""
"""The turns that have ended, of these."""
FIRST_CALL = f"""
SELECT {", ".join(_COLUMNS)}, {_BARE} FROM agent_telemetry_full
WHERE record_type = 'llm_call' AND turn_id = (SELECT turn_id FROM agent_telemetry WHERE id = $1)
ORDER BY created_at, id LIMIT 1
"""  # noqa: S608 - column names are this program's own
"""The call that began the turn which this call belongs to."""
