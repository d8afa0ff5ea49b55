-- What filters may be set to: every project (one look into the index for each), and the models of
-- the latest calls. $1 how many of each, $2 how many calls to look at
WITH RECURSIVE projects AS (
    (SELECT min(project_id) AS name, 1 AS number FROM agent_telemetry)
    UNION ALL
    SELECT (SELECT min(project_id) FROM agent_telemetry WHERE project_id > p.name), p.number + 1
    FROM projects p WHERE p.name IS NOT NULL AND p.number < $1
), latest AS (
    SELECT model_used FROM agent_telemetry ORDER BY created_at DESC LIMIT $2
)
SELECT 'project' AS kind, name FROM projects WHERE name IS NOT NULL
UNION ALL
SELECT 'model', name FROM (SELECT DISTINCT model_used AS name FROM latest ORDER BY 1 LIMIT $1) m
ORDER BY kind, name
