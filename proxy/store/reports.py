"""Reports: the diagnostic questions as SQL. Pure.

Each takes the beginning of the time span ($1) and a project or NULL ($2). Column names are what a
reader sees; `_ms` and `_percent` at their end tell a view how to write the values. Rows of a table
that was taken over do not say how they went (`outcome` is NULL), and hold what others wrote.
"""

from __future__ import annotations

_SPAN = "created_at >= $1 AND ($2::text IS NULL OR project_id = $2)"
_WHICH = {
    "<span>": _SPAN,
    "<turns>": f"record_type = 'turn_summary' AND {_SPAN}",
    "<calls>": f"record_type = 'llm_call' AND {_SPAN}",
    "<latency>": "CASE jsonb_typeof(result -> 'latency_ms') WHEN 'number'"
    " THEN (result ->> 'latency_ms')::numeric END",
}
_QUERIES = {
    "stop-reasons": """
SELECT stop_reason, count(*) AS turns,
    round(100.0 * count(*) / sum(count(*)) OVER (), 1) AS share_percent,
    round(avg(rounds), 1) AS avg_rounds, round(avg(tool_call_count), 1) AS avg_tools,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms)::bigint AS median_ms
FROM agent_telemetry WHERE <turns> GROUP BY stop_reason ORDER BY turns DESC, stop_reason
""",
    "early-cut": """
SELECT created_at, project_id AS project, session_id AS session, stop_reason, rounds,
    tool_call_count AS tools, left(user_message, 200) AS user_message
FROM agent_telemetry WHERE <turns> AND stop_reason <> 'completed' AND rounds < 3
ORDER BY created_at DESC LIMIT 50
""",
    "tools": """
SELECT COALESCE(result ->> 'name', '?') AS tool, count(*) AS results,
    count(*) FILTER (WHERE result -> 'is_error' = 'true') AS errors,
    round(100.0 * count(*) FILTER (WHERE result -> 'is_error' = 'true') / count(*), 1)
        AS errors_percent,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY <latency>)::bigint AS median_ms,
    max(<latency>)::bigint AS slowest_ms
FROM agent_telemetry
    CROSS JOIN LATERAL jsonb_array_elements(
        CASE jsonb_typeof(tool_results) WHEN 'array' THEN tool_results ELSE '[]' END) AS result
WHERE <turns> GROUP BY 1 ORDER BY results DESC, tool LIMIT 50
""",
    "sessions": """
SELECT session_id AS session, project_id AS project, max(created_at) AS last,
    count(*) FILTER (WHERE record_type = 'turn_summary') AS turns,
    count(*) FILTER (WHERE record_type = 'llm_call') AS calls,
    sum(total_tokens) FILTER (WHERE record_type = 'llm_call') AS tokens,
    round(sum(cost_usd) FILTER (WHERE record_type = 'llm_call'), 4) AS cost_usd,
    (array_agg(stop_reason ORDER BY created_at DESC)
        FILTER (WHERE record_type = 'turn_summary'))[1] AS last_stop
FROM agent_telemetry WHERE <span> AND session_id IS NOT NULL
GROUP BY session_id, project_id ORDER BY last DESC LIMIT 50
""",
    "models": """
SELECT model_used AS model, count(*) AS calls,
    round(100.0 * count(*) FILTER (WHERE outcome <> 'complete') / count(*), 1) AS failed_percent,
    sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
    round(sum(cost_usd), 4) AS cost_usd
FROM agent_telemetry WHERE <calls> GROUP BY model_used ORDER BY calls DESC, model LIMIT 50
""",
    "latency": """
SELECT model_used AS model, count(*) AS calls,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY ttft_ms)::bigint AS first_median_ms,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY ttft_ms)::bigint AS first_p95_ms,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms)::bigint AS median_ms,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms)::bigint AS p95_ms
FROM agent_telemetry WHERE <calls> AND COALESCE(outcome, 'complete') = 'complete'
GROUP BY model_used ORDER BY calls DESC, model LIMIT 50
""",
    "tokens": """
SELECT COALESCE(project_id, '-') AS project, model_used AS model, count(*) AS calls,
    sum(prompt_tokens) AS prompt_tokens, sum(cached_tokens) AS cached_tokens,
    round(100.0 * sum(cached_tokens) / NULLIF(sum(prompt_tokens), 0), 1) AS cached_percent,
    sum(completion_tokens) AS completion_tokens, sum(reasoning_tokens) AS reasoning_tokens,
    round(sum(cost_usd), 4) AS cost_usd
FROM agent_telemetry WHERE <calls> GROUP BY 1, 2
ORDER BY prompt_tokens DESC NULLS LAST, project, model LIMIT 50
""",
    "errors": """
SELECT outcome, status, model_used AS model, count(*) AS calls, max(created_at) AS last,
    left(max(error), 200) AS error
FROM agent_telemetry WHERE <calls> AND outcome <> 'complete'
GROUP BY outcome, status, model_used ORDER BY calls DESC, last DESC LIMIT 50
""",
}


def _filled(query: str) -> str:
    for name, condition in _WHICH.items():
        query = query.replace(name, condition)
    return query


REPORTS = {name: _filled(query) for name, query in _QUERIES.items()}
OVERVIEW = ("stop-reasons", "tools", "models", "errors")

_REPLAYED = (
    *("id", "created_at", "record_type", "project_id", "session_id", "user_message", "model_used"),
    *("response_text", "response_thoughts", "tool_calls", "tool_results", "stop_reason", "rounds"),
    *("tool_call_count", "prompt_tokens", "completion_tokens", "cached_tokens", "duration_ms"),
    *("ttft_ms", "turn_id", "round", "parent_id", "status", "outcome", "error", "cost_usd"),
    *("capture", "provider", "client"),
)
REPLAY = f"""
SELECT {", ".join(f"t.{name}" for name in _REPLAYED)}, l.outputs
FROM agent_telemetry t LEFT JOIN agent_links l ON l.call_id = t.id
WHERE t.session_id = $1 AND ($2::text IS NULL OR t.project_id = $2)
    AND ($3::uuid IS NULL OR t.turn_id = $3)
ORDER BY t.created_at, t.id
"""  # noqa: S608 - column names are this program's own
"""The rows of one conversation without their histories, and the results that each call brought."""
