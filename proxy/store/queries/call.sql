-- One row, whole. $1 its id
SELECT * FROM agent_telemetry_full WHERE id = $1
