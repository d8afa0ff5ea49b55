-- What the web page looks for among a million rows and more: a model's calls, what did not end well
-- (a small part of all), turns, words in messages.
CREATE INDEX IF NOT EXISTS idx_agent_telemetry_model ON agent_telemetry (model_used, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_agent_telemetry_ends
    ON agent_telemetry (COALESCE(stop_reason, outcome, ''), created_at DESC)
    WHERE COALESCE(stop_reason, outcome, '') NOT IN ('complete', 'completed');
CREATE INDEX IF NOT EXISTS idx_agent_telemetry_wrong ON agent_telemetry (created_at DESC)
    WHERE COALESCE(stop_reason, outcome, '') NOT IN ('complete', 'completed');
CREATE INDEX IF NOT EXISTS idx_agent_telemetry_turns ON agent_telemetry (created_at DESC)
    WHERE record_type = 'turn_summary';
CREATE INDEX IF NOT EXISTS idx_agent_telemetry_said
    ON agent_telemetry USING gin (to_tsvector('simple', left(user_message, 4000)))
    WHERE record_type = 'turn_summary';
