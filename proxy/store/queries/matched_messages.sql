-- The message of each conversation that a search found. $1 ids of the rows found
SELECT id, left(user_message, 4000) AS user_message FROM agent_telemetry WHERE id = ANY($1)
