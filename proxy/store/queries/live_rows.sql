-- Calls and turns by their ids in the same columns as live.sql, in order of time. $1 ids
SELECT id, created_at, record_type, project_id, session_id, turn_id, round, model_used, provider,
    client, status, outcome, stop_reason, rounds, tool_call_count, prompt_tokens,
    completion_tokens, cached_tokens, cost_usd, duration_ms, ttft_ms,
    left(user_message, 400) AS user_message, left(response_text, 400) AS response_text,
    left(error, 400) AS error, capture #>> '{link,kind}' AS kind,
    capture #>> '{evidence,-1}' AS last_call,
    CASE WHEN record_type = 'llm_call'
        THEN jsonb_path_query_array(tool_calls, 'lax $[0 to 7].name') END AS tools
FROM agent_telemetry WHERE id = ANY($1::uuid[]) ORDER BY created_at, id
