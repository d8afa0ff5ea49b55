-- How tools did in the latest turns of a span. $1 project, $2 model, $3 since, $4 turns at most
WITH turns AS (
    SELECT CASE jsonb_typeof(tool_results) WHEN 'array' THEN tool_results END AS results
    FROM agent_telemetry
    WHERE record_type = 'turn_summary' AND created_at >= $3 AND tool_call_count > 0
        AND ($1::text IS NULL OR project_id = $1) AND ($2::text IS NULL OR model_used = $2)
    ORDER BY created_at DESC LIMIT $4
)
SELECT COALESCE(result ->> 'name', '?') AS tool, count(*) AS results,
    count(*) FILTER (WHERE result -> 'is_error' = 'true') AS errors,
    percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY latency) AS took
FROM turns CROSS JOIN LATERAL jsonb_array_elements(results) AS result
CROSS JOIN LATERAL (
    SELECT CASE jsonb_typeof(result -> 'latency_ms') WHEN 'number'
        THEN (result ->> 'latency_ms')::numeric END AS latency
) AS l
GROUP BY 1 ORDER BY errors DESC, results DESC, tool LIMIT 30
