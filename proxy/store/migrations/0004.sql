-- Which rows refer to a medium: asked before one is deleted. Only rows that have any.
CREATE INDEX IF NOT EXISTS idx_agent_telemetry_blobs
    ON agent_telemetry USING gin ((capture -> 'blobs')) WHERE capture ? 'blobs';
