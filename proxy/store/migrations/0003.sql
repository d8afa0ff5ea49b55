-- Responses that were begun in the background and had not ended when they were recorded: found by
-- their own id when the agent retrieves them. Only these, so the index stays small.
CREATE INDEX IF NOT EXISTS idx_agent_telemetry_open_response
    ON agent_telemetry ((capture ->> 'response_id'))
    WHERE endpoint = 'responses'
        AND (finish_reason IS NULL OR finish_reason IN ('queued', 'in_progress'));
