-- Exchanges that could not become rows, by reason. $1 the reason of those that did
SELECT reason, count(*) AS calls, max(created_at) AS newest_at
FROM agent_raw WHERE reason <> $1 GROUP BY reason ORDER BY calls DESC, reason LIMIT 20
