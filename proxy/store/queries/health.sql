-- The database at a glance; of many rows the number is the planner's estimate. $1 rows to count
WITH estimate AS (
    SELECT sum(reltuples)::bigint AS rows FROM pg_class
    WHERE oid IN (SELECT relid FROM pg_partition_tree('agent_telemetry') WHERE isleaf)
)
SELECT (SELECT max(created_at) FROM agent_telemetry) AS newest_at,
    (SELECT min(created_at) FROM agent_telemetry) AS oldest_at,
    (SELECT CASE WHEN e.rows > $1::integer THEN e.rows ELSE (
        SELECT count(*) FROM (SELECT FROM agent_telemetry LIMIT $1::integer) counted) END
        FROM estimate e) AS rows,
    (SELECT count(*) FROM (SELECT FROM agent_links WHERE is_pending LIMIT 10000) p) AS pending,
    (SELECT min(created_at) FROM agent_links WHERE is_pending) AS pending_since,
    (SELECT count(DISTINCT at) FROM agent_rollup_stale
        WHERE at < CURRENT_TIMESTAMP - INTERVAL '1 hour') AS not_summed,
    pg_database_size(current_database()) AS bytes,
    current_setting('server_version') AS version
