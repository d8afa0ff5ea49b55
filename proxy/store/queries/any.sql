-- Whether anything was ever recorded
SELECT 1 AS found FROM agent_telemetry LIMIT 1
