-- Rows added up by time, so that a year is read as quickly as an hour: by ten minutes, hour and day
-- (of UTC), which of these each is made of. Triggers note which ten minutes are no longer as they
-- were added up, whoever changed a row and however; the recorder adds those up again (store/rollup),
-- and until then they are read from the rows. So what is read is exact at any time.

CREATE TABLE agent_rollup (
    width_s INTEGER NOT NULL,           -- 600, 3600 or 86400
    at TIMESTAMPTZ NOT NULL,            -- where it begins
    record_type TEXT NOT NULL,
    project_id TEXT NOT NULL,           -- '': none
    model_used TEXT NOT NULL,
    stop_reason TEXT NOT NULL,          -- '': none, as of calls
    counted BIGINT NOT NULL,
    failed BIGINT NOT NULL,             -- calls that are not complete
    early BIGINT NOT NULL,              -- turns that did not complete, of fewer than three rounds
    prompt_tokens BIGINT,
    completion_tokens BIGINT,
    cached_tokens BIGINT,
    cost_usd NUMERIC,
    rounds BIGINT,
    rounds_known BIGINT NOT NULL,       -- of how many rows `rounds` is the sum
    tool_calls BIGINT,
    tool_calls_known BIGINT NOT NULL,
    took_bins SMALLINT[],               -- duration_ms of complete calls and of turns, by agent_bin
    took_counts BIGINT[],
    first_bins SMALLINT[],              -- ttft_ms of complete calls
    first_counts BIGINT[]
);
CREATE INDEX idx_agent_rollup_at ON agent_rollup (width_s, at);

-- Ten minutes to be added up again, by their beginning; once for each change, since a unique key
-- would have writers wait for each other.
CREATE TABLE agent_rollup_stale (at TIMESTAMPTZ NOT NULL);

-- Neither has a key, and where all tables are published nothing could be deleted from them.
ALTER TABLE agent_rollup REPLICA IDENTITY FULL;
ALTER TABLE agent_rollup_stale REPLICA IDENTITY FULL;

-- 16 bins to a doubling: whatever lies in one is within 2.2 % of its middle, 2 ^ ((bin + 0.5) / 16).
-- -1: zero.
CREATE FUNCTION agent_bin(ms INTEGER) RETURNS SMALLINT LANGUAGE SQL IMMUTABLE AS $$
    SELECT CASE WHEN ms > 0 THEN floor(16 * ln(ms::float8) / ln(2::float8))::smallint
        WHEN ms <= 0 THEN -1::smallint END
$$;

CREATE FUNCTION agent_begin(instant TIMESTAMPTZ, width_s INTEGER) RETURNS TIMESTAMPTZ
LANGUAGE SQL STABLE AS $$
    SELECT to_timestamp(floor(extract(epoch FROM instant) / width_s) * width_s)
$$;

-- The rows of a time, added up by intervals of this width.
CREATE FUNCTION agent_rolled(since TIMESTAMPTZ, until TIMESTAMPTZ, width INTEGER)
RETURNS SETOF agent_rollup LANGUAGE SQL STABLE AS $$
    SELECT width, at, record_type, project, model, reason,
        sum(counted) FILTER (WHERE is_whole)::bigint, sum(failed) FILTER (WHERE is_whole)::bigint,
        sum(early) FILTER (WHERE is_whole)::bigint,
        sum(prompt_tokens) FILTER (WHERE is_whole)::bigint,
        sum(completion_tokens) FILTER (WHERE is_whole)::bigint,
        sum(cached_tokens) FILTER (WHERE is_whole)::bigint,
        sum(cost_usd) FILTER (WHERE is_whole),
        sum(rounds) FILTER (WHERE is_whole)::bigint,
        sum(rounds_known) FILTER (WHERE is_whole)::bigint,
        sum(tool_calls) FILTER (WHERE is_whole)::bigint,
        sum(tool_calls_known) FILTER (WHERE is_whole)::bigint,
        array_agg(took) FILTER (WHERE took IS NOT NULL),
        array_agg(counted) FILTER (WHERE took IS NOT NULL),
        array_agg(first) FILTER (WHERE first IS NOT NULL),
        array_agg(counted) FILTER (WHERE first IS NOT NULL)
    FROM (
        SELECT at, record_type, project, model, reason, took, first,
            GROUPING(took, first) = 3 AS is_whole, count(*) AS counted,
            count(*) FILTER (WHERE is_call AND NOT is_complete) AS failed,
            count(*) FILTER (WHERE reason NOT IN ('', 'completed') AND NOT is_call AND rounds < 3)
                AS early,
            sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
            sum(cached_tokens) AS cached_tokens, sum(cost_usd) AS cost_usd,
            sum(rounds) AS rounds, count(rounds) AS rounds_known,
            sum(tool_call_count) AS tool_calls, count(tool_call_count) AS tool_calls_known
        FROM (
            SELECT agent_begin(created_at, width) AS at, record_type,
                COALESCE(project_id, '') AS project, model_used AS model,
                COALESCE(stop_reason, '') AS reason, record_type = 'llm_call' AS is_call,
                COALESCE(outcome, '') = 'complete' AS is_complete, rounds, tool_call_count,
                prompt_tokens, completion_tokens, cached_tokens, cost_usd,
                CASE WHEN outcome = 'complete' OR record_type <> 'llm_call'
                    THEN agent_bin(duration_ms) END AS took,
                CASE WHEN outcome = 'complete' THEN agent_bin(ttft_ms) END AS first
            FROM agent_telemetry WHERE created_at >= since AND created_at < until
        ) found
        GROUP BY GROUPING SETS (
            (at, record_type, project, model, reason),
            (at, record_type, project, model, reason, took),
            (at, record_type, project, model, reason, first)
        )
    ) parts
    GROUP BY at, record_type, project, model, reason
$$;

-- A span of time: each part of it from what was added up by that width, or (0) from its rows.
-- OFFSET 0 has each part looked up in the index: a join would be planned for all of the table.
CREATE FUNCTION agent_summed(
    widths INTEGER[], begins TIMESTAMPTZ[], ends TIMESTAMPTZ[], width INTEGER
) RETURNS SETOF agent_rollup LANGUAGE SQL STABLE AS $$
    SELECT r.* FROM unnest(widths, begins, ends) AS p (width_s, begins_at, ends_at)
    CROSS JOIN LATERAL (
        SELECT * FROM agent_rollup r
        WHERE r.width_s = p.width_s AND r.at >= p.begins_at AND r.at < p.ends_at OFFSET 0
    ) r WHERE p.width_s <> 0
    UNION ALL
    SELECT r.* FROM unnest(widths, begins, ends) AS p (width_s, begins_at, ends_at)
    CROSS JOIN LATERAL agent_rolled(p.begins_at, p.ends_at, width) r WHERE p.width_s = 0
$$;

CREATE FUNCTION agent_rollup_note() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM agent_rollup;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO agent_rollup_stale SELECT DISTINCT agent_begin(created_at, 600) FROM old_rows
        WHERE created_at >= '1970-01-01Z' AND created_at < '3000-01-01Z';
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO agent_rollup_stale SELECT DISTINCT agent_begin(created_at, 600) FROM new_rows
        WHERE created_at >= '1970-01-01Z' AND created_at < '3000-01-01Z';
    END IF;
    RETURN NULL;
END
$$;
-- Whoever may write rows may do so without a right to these tables, and from any search path. Nobody's
-- temporary tables are looked at first, and nobody may have it called by a table of their own.
REVOKE EXECUTE ON FUNCTION agent_rollup_note() FROM PUBLIC;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION agent_rollup_note() SECURITY DEFINER
        SET search_path = pg_catalog, %I, pg_temp', current_schema());
END
$$;
CREATE TRIGGER agent_rollup_inserted AFTER INSERT ON agent_telemetry
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION agent_rollup_note();
CREATE TRIGGER agent_rollup_updated AFTER UPDATE ON agent_telemetry
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION agent_rollup_note();
CREATE TRIGGER agent_rollup_deleted AFTER DELETE ON agent_telemetry
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION agent_rollup_note();
CREATE TRIGGER agent_rollup_truncated AFTER TRUNCATE ON agent_telemetry
    FOR EACH STATEMENT EXECUTE FUNCTION agent_rollup_note();

-- Have everything since then added up again: one look into the index for each ten minutes that hold
-- a row, and whatever was added up before.
CREATE FUNCTION agent_rollup_again(since TIMESTAMPTZ) RETURNS VOID LANGUAGE SQL AS $$
    WITH RECURSIVE found AS (
        (SELECT agent_begin(min(created_at), 600) AS at FROM agent_telemetry
            WHERE created_at >= agent_begin(since, 600) AND created_at < '3000-01-01Z')
        UNION ALL
        SELECT (SELECT agent_begin(min(created_at), 600) FROM agent_telemetry
            WHERE created_at >= f.at + INTERVAL '10 minutes' AND created_at < '3000-01-01Z')
        FROM found f WHERE f.at IS NOT NULL
    )
    INSERT INTO agent_rollup_stale SELECT at FROM found WHERE at IS NOT NULL
    UNION SELECT at FROM agent_rollup WHERE width_s = 600 AND at >= agent_begin(since, 600)
$$;
SELECT agent_rollup_again('1970-01-01Z');

COMMENT ON COLUMN agent_telemetry.capture IS 'What a reader must know: bytes and SHA-256 of both bodies, the version of the decoders, what was cut, redacted or unreadable, the traceparent, how the call was linked. Of a turn: the rule that judged it, and the calls it rests on.';
COMMENT ON TABLE agent_rollup IS 'Calls and turns added up by ten minutes, hour and day, for charts. Follows from agent_telemetry; SELECT agent_rollup_again(INSTANT) has what follows added up again.';
COMMENT ON TABLE agent_rollup_stale IS 'Ten minutes whose rows changed since they were added up.';
