-- The latest turns of a span that were cut early. $1 project, $2 model, $3 since, $4 how many
SELECT created_at, project_id, session_id, turn_id, stop_reason, rounds, tool_call_count,
    left(user_message, 300) AS user_message, capture #>> '{evidence,-1}' AS last_call
FROM agent_telemetry
WHERE record_type = 'turn_summary' AND created_at >= $3
    AND stop_reason <> 'completed' AND rounds < 3
    AND COALESCE(stop_reason, outcome, '') NOT IN ('complete', 'completed') -- names the index
    AND ($1::text IS NULL OR project_id = $1) AND ($2::text IS NULL OR model_used = $2)
ORDER BY created_at DESC, id DESC LIMIT $4
