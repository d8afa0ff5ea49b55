-- The table, its indexes, what lies beside it, and the view for training. Everything is written so
-- that a table which is already there, with rows and with some of these columns, is completed.

CREATE TABLE IF NOT EXISTS agent_telemetry (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    created_at TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
    record_type TEXT NOT NULL DEFAULT 'llm_call',
    project_id VARCHAR(255),
    session_id TEXT,
    user_message TEXT,
    model_used VARCHAR(255) NOT NULL,
    system_prompt TEXT NOT NULL,
    chat_history JSONB NOT NULL,
    response_text TEXT,
    response_thoughts TEXT,
    tool_calls JSONB,
    tool_results JSONB,
    stop_reason TEXT,
    rounds INTEGER,
    tool_call_count INTEGER,
    turn_intent TEXT,
    chat_mode TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    total_tokens INTEGER,
    duration_ms INTEGER NOT NULL
);

ALTER TABLE agent_telemetry
    ADD COLUMN IF NOT EXISTS project_id VARCHAR(255),
    ADD COLUMN IF NOT EXISTS session_id TEXT,
    ADD COLUMN IF NOT EXISTS user_message TEXT,
    ADD COLUMN IF NOT EXISTS response_text TEXT,
    ADD COLUMN IF NOT EXISTS response_thoughts TEXT,
    ADD COLUMN IF NOT EXISTS tool_calls JSONB,
    ADD COLUMN IF NOT EXISTS tool_results JSONB,
    ADD COLUMN IF NOT EXISTS stop_reason TEXT,
    ADD COLUMN IF NOT EXISTS rounds INTEGER,
    ADD COLUMN IF NOT EXISTS tool_call_count INTEGER,
    ADD COLUMN IF NOT EXISTS turn_intent TEXT,
    ADD COLUMN IF NOT EXISTS chat_mode TEXT,
    ADD COLUMN IF NOT EXISTS prompt_tokens INTEGER,
    ADD COLUMN IF NOT EXISTS completion_tokens INTEGER,
    ADD COLUMN IF NOT EXISTS total_tokens INTEGER,
    ADD COLUMN IF NOT EXISTS turn_id UUID,
    ADD COLUMN IF NOT EXISTS round INTEGER,
    ADD COLUMN IF NOT EXISTS provider TEXT,
    ADD COLUMN IF NOT EXISTS endpoint TEXT,
    ADD COLUMN IF NOT EXISTS streamed BOOLEAN,
    ADD COLUMN IF NOT EXISTS status INTEGER,
    ADD COLUMN IF NOT EXISTS outcome TEXT,
    ADD COLUMN IF NOT EXISTS error TEXT,
    ADD COLUMN IF NOT EXISTS finish_reason TEXT,
    ADD COLUMN IF NOT EXISTS request_params JSONB,
    ADD COLUMN IF NOT EXISTS usage JSONB,
    ADD COLUMN IF NOT EXISTS usage_source TEXT,
    ADD COLUMN IF NOT EXISTS cached_tokens INTEGER,
    ADD COLUMN IF NOT EXISTS cache_write_tokens INTEGER,
    ADD COLUMN IF NOT EXISTS reasoning_tokens INTEGER,
    ADD COLUMN IF NOT EXISTS cost_usd NUMERIC,
    ADD COLUMN IF NOT EXISTS ttft_ms INTEGER,
    ADD COLUMN IF NOT EXISTS provider_request_id TEXT,
    ADD COLUMN IF NOT EXISTS client TEXT,
    ADD COLUMN IF NOT EXISTS parent_id UUID,
    ADD COLUMN IF NOT EXISTS labels JSONB,
    ADD COLUMN IF NOT EXISTS capture JSONB;

CREATE INDEX IF NOT EXISTS idx_agent_telemetry_project ON agent_telemetry (project_id);
CREATE INDEX IF NOT EXISTS idx_agent_telemetry_created_at ON agent_telemetry (created_at DESC);
CREATE INDEX IF NOT EXISTS idx_agent_telemetry_session ON agent_telemetry (session_id);
CREATE INDEX IF NOT EXISTS idx_agent_telemetry_stop ON agent_telemetry (stop_reason);
CREATE INDEX IF NOT EXISTS idx_agent_telemetry_record_type ON agent_telemetry (record_type);

-- Digests of messages, for linking calls to threads. Pruned with the rows.
CREATE TABLE IF NOT EXISTS agent_links (
    digest BYTEA NOT NULL,
    call_id UUID NOT NULL,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (digest, call_id, version)
);
CREATE INDEX IF NOT EXISTS idx_agent_links_call ON agent_links (call_id);

-- Large inline media, once each, by SHA-256.
CREATE TABLE IF NOT EXISTS agent_blobs (
    sha256 BYTEA PRIMARY KEY,
    created_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    media_type TEXT,
    content BYTEA NOT NULL
);

-- Raw exchanges, compressed: those that could not become rows, or all where so configured.
CREATE TABLE IF NOT EXISTS agent_raw (
    id UUID PRIMARY KEY,
    created_at TIMESTAMPTZ NOT NULL,
    reason TEXT NOT NULL,
    exchange BYTEA NOT NULL
);
CREATE INDEX IF NOT EXISTS idx_agent_raw_created_at ON agent_raw (created_at DESC);

-- What people or programs said about a call, a turn or a conversation.
CREATE TABLE IF NOT EXISTS agent_feedback (
    id UUID PRIMARY KEY,
    created_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    project_id VARCHAR(255),
    session_id TEXT,
    turn_id UUID,
    call_id UUID,
    name TEXT NOT NULL,
    value JSONB NOT NULL,
    comment TEXT
);
CREATE INDEX IF NOT EXISTS idx_agent_feedback_session ON agent_feedback (session_id);

-- Compressed already.
ALTER TABLE agent_blobs ALTER COLUMN content SET STORAGE EXTERNAL;
ALTER TABLE agent_raw ALTER COLUMN exchange SET STORAGE EXTERNAL;

-- A third of the server's time on large rows; PostgreSQL 13 and builds without lz4 go on with pglz.
DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['system_prompt', 'chat_history', 'response_text',
        'response_thoughts', 'tool_calls', 'tool_results', 'request_params', 'user_message']
    LOOP
        EXECUTE format('ALTER TABLE agent_telemetry ALTER COLUMN %I SET COMPRESSION lz4', name);
    END LOOP;
EXCEPTION
    WHEN syntax_error OR feature_not_supported OR invalid_parameter_value THEN NULL;
END
$$;

-- One row per complete call: what the model was given, and what it answered.
CREATE OR REPLACE VIEW agent_training AS
SELECT
    id, created_at, project_id, session_id, turn_id, round, parent_id, provider, endpoint,
    model_used, finish_reason, prompt_tokens, completion_tokens, labels,
    jsonb_build_object(
        'system', system_prompt,
        'messages', chat_history,
        'tools', COALESCE(
            request_params -> 'tools', request_params -> 'toolConfig' -> 'tools', '[]'::jsonb
        )
    ) AS input_context,
    jsonb_build_object(
        'text', response_text,
        'thoughts', response_thoughts,
        'tool_calls', COALESCE(tool_calls, '[]'::jsonb)
    ) AS target_output
FROM agent_telemetry
WHERE record_type = 'llm_call'
    AND outcome = 'complete'
    AND NOT COALESCE(capture ? 'truncated', FALSE)
    AND COALESCE(capture ->> 'content', 'full') <> 'metadata';
