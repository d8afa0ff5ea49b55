-- Calls of a span by model, and of all models together (model NULL), with what they took.
-- $1 project, $2 model, $3 since
SELECT CASE WHEN GROUPING(model_used) = 0 THEN model_used END AS model, count(*) AS calls,
    count(*) FILTER (WHERE outcome IS DISTINCT FROM 'complete') AS failed,
    sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
    sum(cached_tokens) AS cached_tokens, sum(cost_usd) AS cost_usd,
    percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY duration_ms)
        FILTER (WHERE outcome = 'complete') AS took,
    percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY ttft_ms)
        FILTER (WHERE outcome = 'complete' AND ttft_ms IS NOT NULL) AS first
FROM agent_telemetry
WHERE record_type = 'llm_call' AND created_at >= $3
    AND ($1::text IS NULL OR project_id = $1) AND ($2::text IS NULL OR model_used = $2)
GROUP BY GROUPING SETS ((), (model_used))
ORDER BY calls DESC, model NULLS FIRST LIMIT 40
