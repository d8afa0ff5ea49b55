-- How turns of a conversation ended. $1 session, $2 project
SELECT id, created_at, turn_id, stop_reason, rounds, tool_call_count, prompt_tokens,
    completion_tokens, cached_tokens, cost_usd, duration_ms, tool_results, capture
FROM agent_telemetry
WHERE session_id = $1 AND project_id IS NOT DISTINCT FROM $2::text
    AND record_type = 'turn_summary' AND turn_id = ANY($3::uuid[])
