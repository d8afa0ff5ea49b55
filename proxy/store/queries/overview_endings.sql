-- How turns of a span ended. $1 project, $2 model, $3 $4 $5 what to read where: widths, beginnings,
-- ends (store/rollup). `took`: the median, as a bin of agent_bin.
WITH parts AS MATERIALIZED (
    SELECT * FROM agent_summed($3::integer[], $4::timestamptz[], $5::timestamptz[], 600)
    WHERE record_type = 'turn_summary'
        AND ($1::text IS NULL OR project_id = $1) AND ($2::text IS NULL OR model_used = $2)
), bins AS (
    SELECT stop_reason, bin, sum(n) AS n
    FROM parts CROSS JOIN LATERAL unnest(took_bins, took_counts) AS t (bin, n) GROUP BY 1, 2
), ranked AS (
    SELECT stop_reason, bin, sum(n) OVER (PARTITION BY stop_reason ORDER BY bin) AS upto,
        sum(n) OVER (PARTITION BY stop_reason) AS total
    FROM bins
), times AS (
    SELECT stop_reason, min(bin) FILTER (WHERE upto >= 0.5 * total) AS took
    FROM ranked GROUP BY stop_reason
), endings AS (
    SELECT stop_reason, sum(counted) AS turns, sum(early) AS early,
        round(sum(rounds) / NULLIF(sum(rounds_known), 0), 1) AS rounds,
        round(sum(tool_calls) / NULLIF(sum(tool_calls_known), 0), 1) AS tools
    FROM parts GROUP BY stop_reason
)
SELECT NULLIF(e.stop_reason, '') AS stop_reason, turns, early, rounds, tools, took
FROM endings e LEFT JOIN times USING (stop_reason) ORDER BY turns DESC, 1
