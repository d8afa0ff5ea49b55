-- Tokens and cost of a span over time. $1 project, $2 model, $3 $4 $5 what to read where: widths of
-- which the interval is a multiple, beginnings, ends; $6 seconds of one interval, $7 'project' or
-- 'model': what intervals are told apart by.
SELECT agent_begin(at, $6::integer) AS at,
    CASE $7::text WHEN 'project' THEN project_id ELSE model_used END AS name,
    sum(counted) AS calls, COALESCE(sum(prompt_tokens), 0) AS prompt_tokens,
    COALESCE(sum(completion_tokens), 0) AS completion_tokens,
    COALESCE(sum(cached_tokens), 0) AS cached_tokens, COALESCE(sum(cost_usd), 0) AS cost_usd
FROM agent_summed($3::integer[], $4::timestamptz[], $5::timestamptz[], $6::integer)
WHERE record_type = 'llm_call'
    AND ($1::text IS NULL OR project_id = $1) AND ($2::text IS NULL OR model_used = $2)
GROUP BY 1, 2 ORDER BY 1, 2
