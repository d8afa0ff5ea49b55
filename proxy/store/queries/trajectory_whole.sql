-- All of a conversation in one line. $1 session, $2 project
SELECT count(*) FILTER (WHERE record_type = 'llm_call') AS calls,
    count(*) FILTER (WHERE record_type = 'turn_summary') AS turns,
    min(created_at) AS began_at, max(created_at) AS last_at,
    sum(prompt_tokens) FILTER (WHERE record_type = 'llm_call') AS prompt_tokens,
    sum(completion_tokens) FILTER (WHERE record_type = 'llm_call') AS completion_tokens,
    sum(cached_tokens) FILTER (WHERE record_type = 'llm_call') AS cached_tokens,
    sum(cost_usd) FILTER (WHERE record_type = 'llm_call') AS cost_usd,
    array_agg(DISTINCT model_used) AS models,
    array_agg(DISTINCT client) FILTER (WHERE client IS NOT NULL) AS clients
FROM agent_telemetry WHERE session_id = $1 AND project_id IS NOT DISTINCT FROM $2::text
