-- How turns of a span ended. $1 project, $2 model, $3 since
SELECT stop_reason, count(*) AS turns, round(avg(rounds), 1) AS rounds,
    round(avg(tool_call_count), 1) AS tools, percentile_disc(0.5) WITHIN GROUP (ORDER BY duration_ms)
        AS duration_ms
FROM agent_telemetry
WHERE record_type = 'turn_summary' AND created_at >= $3
    AND ($1::text IS NULL OR project_id = $1) AND ($2::text IS NULL OR model_used = $2)
GROUP BY stop_reason ORDER BY turns DESC, stop_reason LIMIT 40
