-- What orchestrators report of turns. It stays here, because a turn that goes on is judged again.
CREATE TABLE agent_reports (
    id UUID PRIMARY KEY,
    created_at TIMESTAMPTZ NOT NULL,    -- arrival
    project_id VARCHAR(255),            -- both as in agent_telemetry
    session_id TEXT NOT NULL,
    conversation UUID NOT NULL,
    turn_id UUID,                       -- as the report names it; NULL: the session's latest turn
    applied_to UUID,                    -- the turn, once there is one
    report JSONB NOT NULL,
    is_pending BOOLEAN NOT NULL DEFAULT TRUE
);
CREATE INDEX idx_agent_reports_conversation ON agent_reports (conversation);
CREATE INDEX idx_agent_reports_turn ON agent_reports (turn_id) WHERE turn_id IS NOT NULL;
CREATE INDEX idx_agent_reports_pending ON agent_reports (created_at, id) WHERE is_pending;

CREATE INDEX IF NOT EXISTS idx_agent_feedback_turn ON agent_feedback (turn_id) WHERE turn_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_agent_feedback_call ON agent_feedback (call_id) WHERE call_id IS NOT NULL;
