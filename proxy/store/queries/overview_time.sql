-- Tokens and cost of a span over time. $1 project, $2 model, $3 since, $4 seconds of one interval,
-- $5 'project' or 'model': what they are told apart by
SELECT to_timestamp(floor(extract(epoch FROM created_at) / $4::integer) * $4::integer) AS at,
    CASE $5::text WHEN 'project' THEN COALESCE(project_id, '') ELSE model_used END AS name,
    count(*) AS calls, COALESCE(sum(prompt_tokens), 0) AS prompt_tokens,
    COALESCE(sum(completion_tokens), 0) AS completion_tokens,
    COALESCE(sum(cached_tokens), 0) AS cached_tokens, COALESCE(sum(cost_usd), 0) AS cost_usd
FROM agent_telemetry
WHERE record_type = 'llm_call' AND created_at >= $3
    AND ($1::text IS NULL OR project_id = $1) AND ($2::text IS NULL OR model_used = $2)
GROUP BY 1, 2 ORDER BY 1, 2
