-- Where to begin a page of a conversation so that it holds a call: ten calls before it, where there
-- are more than a page before it. $1 session, $2 project, $3 the call, $4 calls on a page
WITH wanted AS (SELECT created_at, id FROM agent_telemetry WHERE id = $3::uuid),
before AS (
    SELECT t.created_at, t.id,
        row_number() OVER (ORDER BY t.created_at DESC, t.id DESC) AS back
    FROM agent_telemetry t, wanted w
    WHERE t.session_id = $1 AND t.project_id IS NOT DISTINCT FROM $2::text
        AND t.record_type = 'llm_call' AND (t.created_at, t.id) < (w.created_at, w.id)
)
SELECT created_at, id FROM before
WHERE back = 10 AND (SELECT count(*) FROM before) >= $4::integer
