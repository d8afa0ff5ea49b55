-- Calls of a span, read once and added up twice. $1 project, $2 model, $3 since, $4 seconds of one
-- interval, $5 'project' or 'model': what intervals are told apart by.
-- models: by model, and of all together (model null), with percentiles 50, 95, 99 of what they took;
-- times: tokens and cost by interval (`at`, in seconds since 1970) and name.
WITH calls AS MATERIALIZED (
    SELECT created_at, project_id, model_used, outcome, duration_ms, ttft_ms, prompt_tokens,
        completion_tokens, cached_tokens, cost_usd
    FROM agent_telemetry
    WHERE record_type = 'llm_call' AND created_at >= $3
        AND ($1::text IS NULL OR project_id = $1) AND ($2::text IS NULL OR model_used = $2)
), models AS (
    SELECT CASE WHEN GROUPING(model_used) = 0 THEN model_used END AS model, count(*) AS calls,
        count(*) FILTER (WHERE outcome IS DISTINCT FROM 'complete') AS failed,
        sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
        sum(cached_tokens) AS cached_tokens, sum(cost_usd) AS cost_usd,
        percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY duration_ms)
            FILTER (WHERE outcome = 'complete') AS took,
        percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY ttft_ms)
            FILTER (WHERE outcome = 'complete' AND ttft_ms IS NOT NULL) AS first
    FROM calls GROUP BY GROUPING SETS ((), (model_used))
    ORDER BY calls DESC, model NULLS FIRST LIMIT 40
), times AS (
    SELECT (floor(extract(epoch FROM created_at) / $4::integer) * $4::integer)::bigint AS at,
        CASE $5::text WHEN 'project' THEN COALESCE(project_id, '') ELSE model_used END AS name,
        count(*) AS calls, COALESCE(sum(prompt_tokens), 0) AS prompt_tokens,
        COALESCE(sum(completion_tokens), 0) AS completion_tokens,
        COALESCE(sum(cached_tokens), 0) AS cached_tokens, COALESCE(sum(cost_usd), 0) AS cost_usd
    FROM calls GROUP BY 1, 2 ORDER BY 1, 2
)
SELECT (SELECT jsonb_agg(to_jsonb(m) ORDER BY m.calls DESC, m.model NULLS FIRST) FROM models m)
        AS models,
    (SELECT COALESCE(jsonb_agg(to_jsonb(t)), '[]') FROM times t) AS times
