-- What linking knows of each call, and where it put it. One row for each row of agent_telemetry,
-- pruned with it. Until now nothing was kept in agent_links.

DROP TABLE IF EXISTS agent_links;
CREATE TABLE agent_links (
    call_id UUID PRIMARY KEY,
    created_at TIMESTAMPTZ NOT NULL,
    conversation UUID,                  -- of project and session, as the call says or as inferred
    facts JSONB NOT NULL,
    outputs JSONB,                      -- results of tools that the call's request brought
    placement JSONB,
    is_pending BOOLEAN NOT NULL DEFAULT TRUE,
    due_at TIMESTAMPTZ                  -- of the last call of a turn that has not ended: when it is idle
);
CREATE INDEX idx_agent_links_conversation ON agent_links (conversation, created_at);
CREATE INDEX idx_agent_links_pending ON agent_links (created_at, call_id) WHERE is_pending;
CREATE INDEX idx_agent_links_due ON agent_links (due_at) WHERE due_at IS NOT NULL;

-- By what calls without a session find each other: what a call offers to later ones, and what it
-- looks for itself, so that one which is committed late finds those that waited for it.
CREATE TABLE agent_link_keys (
    key TEXT COLLATE "C" NOT NULL,
    is_wanted BOOLEAN NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    call_id UUID NOT NULL REFERENCES agent_links (call_id) ON DELETE CASCADE,
    PRIMARY KEY (key, is_wanted, created_at, call_id)
);
CREATE INDEX idx_agent_link_keys_call ON agent_link_keys (call_id);

-- The key of the digests: they tell nothing to whoever has only them.
CREATE TABLE agent_secrets (
    name TEXT PRIMARY KEY,
    value BYTEA NOT NULL
);
INSERT INTO agent_secrets (name, value)
SELECT 'links', decode(replace(gen_random_uuid()::TEXT || gen_random_uuid()::TEXT, '-', ''), 'hex');

CREATE INDEX IF NOT EXISTS idx_agent_telemetry_turn ON agent_telemetry (turn_id);
