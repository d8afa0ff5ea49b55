-- Conversations by their latest row that meets the conditions, the newest first.
-- $1 project, $2 session, $3 model, $4 ending of a turn or outcome of a call, $5 only what went
-- wrong, $6 words in a message of the user (to_tsquery), $7 since, $8 and $9 the last conversation
-- that was shown, $10 how many, $11 look at so many of the latest rows only, and for words there
-- without their index, which is quicker where there are enough; NULL: at all.
WITH candidates AS MATERIALIZED (
    SELECT id, created_at, project_id, session_id FROM (
        SELECT id, created_at, project_id, session_id, user_message
        FROM agent_telemetry
        WHERE session_id IS NOT NULL
            AND created_at >= $7
            AND ($1::text IS NULL OR project_id = $1)
            AND ($2::text IS NULL OR session_id = $2)
            AND ($3::text IS NULL OR model_used = $3)
            AND ($4::text IS NULL OR COALESCE(stop_reason, outcome, '') = $4)
            AND (NOT $5::boolean
                OR COALESCE(stop_reason, outcome, '') NOT IN ('complete', 'completed'))
            AND ($6::text IS NULL OR record_type = 'turn_summary')
            AND ($6::text IS NULL OR $11::integer IS NOT NULL
                OR to_tsvector('simple', left(user_message, 4000)) @@ to_tsquery('simple', $6))
            AND ($8::timestamptz IS NULL OR (created_at, id) < ($8, $9::uuid))
        ORDER BY created_at DESC, id DESC LIMIT $11::integer
    ) t
    WHERE $6::text IS NULL OR $11::integer IS NULL
        OR to_tsvector('simple', left(t.user_message, 4000)) @@ to_tsquery('simple', $6)
), latest AS (
    SELECT DISTINCT ON (session_id, project_id) * FROM candidates
    ORDER BY session_id, project_id, created_at DESC, id DESC
), listed AS (
    -- OFFSET 0: in order first, then looked at one by one until there are enough.
    SELECT * FROM (SELECT * FROM latest ORDER BY created_at DESC, id DESC OFFSET 0) l
    WHERE $8::timestamptz IS NULL OR NOT EXISTS ( -- it was shown before
        SELECT FROM agent_telemetry n
        WHERE n.session_id = l.session_id AND n.project_id IS NOT DISTINCT FROM l.project_id
            AND (n.created_at, n.id) >= ($8, $9::uuid)
            AND ($3::text IS NULL OR n.model_used = $3)
            AND ($4::text IS NULL OR COALESCE(n.stop_reason, n.outcome, '') = $4)
            AND (NOT $5::boolean
                OR COALESCE(n.stop_reason, n.outcome, '') NOT IN ('complete', 'completed'))
            AND ($6::text IS NULL OR (
                n.record_type = 'turn_summary' AND to_tsvector('simple',
                    left(n.user_message, 4000) || '') @@ to_tsquery('simple', $6)))
    )
    LIMIT $10
)
SELECT l.id, l.created_at, l.project_id, l.session_id, c.*
FROM listed l CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE r.record_type = 'llm_call') AS calls,
        count(*) FILTER (WHERE r.record_type = 'llm_call'
            AND r.outcome IS DISTINCT FROM 'complete') AS failed,
        max(r.created_at) AS last_at,
        sum(r.prompt_tokens) FILTER (WHERE r.record_type = 'llm_call') AS prompt_tokens,
        sum(r.completion_tokens) FILTER (WHERE r.record_type = 'llm_call') AS completion_tokens,
        sum(r.cached_tokens) FILTER (WHERE r.record_type = 'llm_call') AS cached_tokens,
        sum(r.cost_usd) FILTER (WHERE r.record_type = 'llm_call') AS cost_usd,
        sum(r.duration_ms) FILTER (WHERE r.record_type = 'llm_call') AS duration_ms,
        array_agg(DISTINCT r.model_used) AS models,
        array_agg(r.stop_reason ORDER BY r.created_at, r.id)
            FILTER (WHERE r.record_type = 'turn_summary') AS endings,
        (array_agg(left(r.user_message, 400) ORDER BY r.turn_id IS NULL, r.created_at, r.id)
            FILTER (WHERE r.user_message IS NOT NULL))[1] AS user_message
    FROM agent_telemetry r
    WHERE r.session_id = l.session_id AND r.project_id IS NOT DISTINCT FROM l.project_id
) c
ORDER BY l.created_at DESC, l.id DESC
