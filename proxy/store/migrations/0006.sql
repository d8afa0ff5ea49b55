-- History that calls share: each message, system prompt and set of schemas once, by the hash of its
-- content. A history is a chain: each link is one more message behind the history before it, so what
-- a conversation needs grows with its messages and not with the square of them.
--
-- Everything of a call lies in one day: that of the call where the store is partitioned, so that a
-- whole day can be dropped; 1970-01-01 where it is not, so that content is there once for all days.

CREATE TABLE agent_messages (
    day DATE NOT NULL,
    hash UUID NOT NULL,
    content JSONB NOT NULL,             -- a message; a system prompt as a string; schemas by their keys
    PRIMARY KEY (hash, day)
) PARTITION BY RANGE (day);
CREATE TABLE agent_messages_undated PARTITION OF agent_messages
    FOR VALUES FROM (MINVALUE) TO ('2000-01-01');

CREATE TABLE agent_chains (
    day DATE NOT NULL,
    hash UUID NOT NULL,                 -- of the whole history up to here
    before UUID,                        -- the history without its last message; NULL: there is none
    message UUID NOT NULL,
    PRIMARY KEY (hash, day)
) PARTITION BY RANGE (day);
CREATE INDEX idx_agent_chains_before ON agent_chains (before);
CREATE INDEX idx_agent_chains_message ON agent_chains (message);
CREATE TABLE agent_chains_undated PARTITION OF agent_chains
    FOR VALUES FROM (MINVALUE) TO ('2000-01-01');

-- What a call refers to. A row that has one of these holds '[]', '' and the rest of the parameters
-- instead of what is named here.
CREATE TABLE agent_contexts (
    call_id UUID PRIMARY KEY,
    day DATE NOT NULL,
    history UUID,
    system UUID,
    schemas UUID,
    size_bytes INTEGER NOT NULL         -- of all this as JSON text
);
CREATE INDEX idx_agent_contexts_history ON agent_contexts (history) WHERE history IS NOT NULL;
CREATE INDEX idx_agent_contexts_system ON agent_contexts (system) WHERE system IS NOT NULL;
CREATE INDEX idx_agent_contexts_schemas ON agent_contexts (schemas) WHERE schemas IS NOT NULL;

DO $$
BEGIN
    ALTER TABLE agent_messages ALTER COLUMN content SET COMPRESSION lz4;
    ALTER TABLE agent_messages_undated ALTER COLUMN content SET COMPRESSION lz4;
EXCEPTION
    WHEN syntax_error OR feature_not_supported OR invalid_parameter_value THEN NULL;
END
$$;

-- The table as it is where nothing is shared, whichever rows are. OFFSET 0 has each step of a chain
-- look up its one row: a join would be planned for all rows of the table.
CREATE OR REPLACE VIEW agent_telemetry_full AS
SELECT
    t.id, t.created_at, t.record_type, t.project_id, t.session_id, t.user_message, t.model_used,
    CASE WHEN c.system IS NULL THEN t.system_prompt
        ELSE COALESCE((
            SELECT m.content #>> '{}' FROM agent_messages m
            WHERE m.day = c.day AND m.hash = c.system
        ), '') END AS system_prompt,
    CASE WHEN c.history IS NULL THEN t.chat_history
        ELSE COALESCE((
            WITH RECURSIVE chain AS (
                SELECT 0 AS back, n.before, n.message FROM agent_chains n
                WHERE n.day = c.day AND n.hash = c.history
                UNION ALL
                SELECT chain.back + 1, n.before, n.message
                FROM chain CROSS JOIN LATERAL (
                    SELECT before, message FROM agent_chains
                    WHERE day = c.day AND hash = chain.before OFFSET 0
                ) n
            )
            SELECT jsonb_agg(m.content ORDER BY chain.back DESC)
            FROM chain CROSS JOIN LATERAL (
                SELECT content FROM agent_messages
                WHERE day = c.day AND hash = chain.message OFFSET 0
            ) m
        ), '[]') END AS chat_history,
    t.response_text, t.response_thoughts, t.tool_calls, t.tool_results, t.stop_reason, t.rounds,
    t.tool_call_count, t.turn_intent, t.chat_mode, t.prompt_tokens, t.completion_tokens,
    t.total_tokens, t.duration_ms, t.turn_id, t.round, t.provider, t.endpoint, t.streamed,
    t.status, t.outcome, t.error, t.finish_reason,
    CASE WHEN c.schemas IS NULL THEN t.request_params
        ELSE COALESCE(t.request_params, '{}') || COALESCE((
            SELECT m.content FROM agent_messages m
            WHERE m.day = c.day AND m.hash = c.schemas
        ), '{}') END AS request_params,
    t.usage, t.usage_source, t.cached_tokens, t.cache_write_tokens, t.reasoning_tokens,
    t.cost_usd, t.ttft_ms, t.provider_request_id, t.client, t.parent_id, t.labels, t.capture
FROM agent_telemetry t LEFT JOIN agent_contexts c ON c.call_id = t.id;

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
FROM agent_telemetry_full
WHERE record_type = 'llm_call'
    AND outcome = 'complete'
    AND NOT COALESCE(capture ? 'truncated', FALSE)
    AND COALESCE(capture ->> 'content', 'full') <> 'metadata';
