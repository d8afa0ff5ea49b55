-- The sums by time (0009) follow from the rows, so whoever drops a table of theirs must not stop those
-- who write rows: the trigger looks whether it is there. Applied again where only the table of notes
-- is missing (store/migrate): then everything is added up again, since nothing was noted meanwhile.
DO $migration$
DECLARE
    place CONSTANT TEXT := (
        SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'agent_rollup'::regclass
    );
    notes CONSTANT TEXT := place || '.agent_rollup_stale';
BEGIN
    IF to_regclass(notes) IS NULL THEN
        EXECUTE format('CREATE TABLE %s (at TIMESTAMPTZ NOT NULL)', notes);
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', notes);
        EXECUTE format('COMMENT ON TABLE %s IS %L', notes,
            'Ten minutes whose rows changed since they were added up.');
        PERFORM agent_rollup_again('1970-01-01Z');
    END IF;
    -- Named with their schema, so that nobody's temporary table is taken for one that is missing.
    EXECUTE format($create$
        CREATE OR REPLACE FUNCTION %1$s.agent_rollup_note() RETURNS TRIGGER LANGUAGE plpgsql
        SECURITY DEFINER SET search_path = pg_catalog, %1$s, pg_temp AS $body$
        BEGIN
            IF TG_OP = 'TRUNCATE' THEN
                IF to_regclass(%2$L) IS NOT NULL THEN
                    DELETE FROM %1$s.agent_rollup;
                END IF;
                RETURN NULL;
            END IF;
            IF to_regclass(%3$L) IS NULL THEN
                RETURN NULL;
            END IF;
            IF TG_OP <> 'INSERT' THEN
                INSERT INTO %1$s.agent_rollup_stale
                SELECT DISTINCT %1$s.agent_begin(created_at, 600) FROM old_rows
                WHERE created_at >= '1970-01-01Z' AND created_at < '3000-01-01Z';
            END IF;
            IF TG_OP <> 'DELETE' THEN
                INSERT INTO %1$s.agent_rollup_stale
                SELECT DISTINCT %1$s.agent_begin(created_at, 600) FROM new_rows
                WHERE created_at >= '1970-01-01Z' AND created_at < '3000-01-01Z';
            END IF;
            RETURN NULL;
        END
        $body$
    $create$, place, place || '.agent_rollup', notes);
END
$migration$;
