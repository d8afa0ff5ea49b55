-- The calls of a conversation in order of time, without their histories.
-- $1 session, $2 project, $3 and $4 the last call before them, $5 how many, $6 characters of a text
SELECT t.id, t.created_at, t.project_id, t.session_id, t.turn_id, t.round, t.parent_id,
    t.model_used, t.provider, t.endpoint, t.client, t.streamed, t.status, t.outcome,
    left(t.error, 2000) AS error, t.finish_reason,
    left(t.user_message, $6) AS user_message, char_length(t.user_message) AS user_message_chars,
    left(t.response_text, $6) AS response_text, char_length(t.response_text) AS response_text_chars,
    left(t.response_thoughts, $6) AS response_thoughts,
    char_length(t.response_thoughts) AS response_thoughts_chars,
    t.tool_calls, t.prompt_tokens, t.completion_tokens, t.cached_tokens, t.reasoning_tokens,
    t.cost_usd, t.duration_ms, t.ttft_ms, t.capture, l.outputs
FROM agent_telemetry t LEFT JOIN agent_links l ON l.call_id = t.id
WHERE t.session_id = $1 AND t.project_id IS NOT DISTINCT FROM $2::text
    AND t.record_type = 'llm_call'
    AND ($3::timestamptz IS NULL OR (t.created_at, t.id) > ($3, $4::uuid))
ORDER BY t.created_at, t.id
LIMIT $5
