-- Calls and turns in a few columns, the newest first: the latest, or those with given ids.
-- $1 project, $2 session, $3 model, $4 outcome or ending, $5 only what went wrong,
-- $6 record_type, $7 since, $8 how many, $9 ids or NULL
SELECT id, created_at, record_type, project_id, session_id, turn_id, round, model_used, provider,
    client, status, outcome, stop_reason, rounds, tool_call_count, prompt_tokens,
    completion_tokens, cached_tokens, cost_usd, duration_ms, ttft_ms,
    left(user_message, 400) AS user_message, left(response_text, 400) AS response_text,
    left(error, 400) AS error, capture #>> '{link,kind}' AS kind,
    capture #>> '{evidence,-1}' AS last_call,
    CASE WHEN record_type = 'llm_call'
        THEN jsonb_path_query_array(tool_calls, 'lax $[0 to 7].name') END AS tools
FROM agent_telemetry
WHERE ($9::uuid[] IS NULL OR id = ANY($9)) AND ($9::uuid[] IS NOT NULL OR created_at >= $7)
    AND ($1::text IS NULL OR project_id = $1)
    AND ($2::text IS NULL OR session_id = $2)
    AND ($3::text IS NULL OR model_used = $3)
    AND ($4::text IS NULL OR COALESCE(stop_reason, outcome, '') = $4)
    AND (NOT $5::boolean OR COALESCE(stop_reason, outcome, '') NOT IN ('complete', 'completed'))
    AND ($6::text IS NULL OR record_type = $6)
ORDER BY created_at DESC, id DESC LIMIT $8
