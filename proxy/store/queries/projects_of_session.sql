-- The projects that a session of this name is known in. $1 session
SELECT DISTINCT project_id FROM agent_telemetry WHERE session_id = $1 ORDER BY 1 LIMIT 20
