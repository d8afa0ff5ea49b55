-- Calls of a span by model, and of all together (model NULL). $1 project, $2 model, $3 $4 $5 what to
-- read where: widths, beginnings, ends (store/rollup). `took` and `first`: percentiles 50, 95 and 99
-- of complete calls, as bins of agent_bin.
WITH parts AS MATERIALIZED (
    SELECT * FROM agent_summed($3::integer[], $4::timestamptz[], $5::timestamptz[], 600)
    WHERE record_type = 'llm_call'
        AND ($1::text IS NULL OR project_id = $1) AND ($2::text IS NULL OR model_used = $2)
), models AS (
    SELECT model_used AS model, COALESCE(sum(counted), 0) AS calls,
        COALESCE(sum(failed), 0) AS failed, sum(prompt_tokens) AS prompt_tokens,
        sum(completion_tokens) AS completion_tokens, sum(cached_tokens) AS cached_tokens,
        sum(cost_usd) AS cost_usd
    FROM parts GROUP BY GROUPING SETS ((), (model_used))
    ORDER BY calls DESC, model NULLS FIRST LIMIT 40
), bins AS (
    SELECT model_used AS model, of, bin, sum(n) AS n FROM parts CROSS JOIN LATERAL (
        SELECT 'took' AS of, bin, n FROM unnest(took_bins, took_counts) AS t (bin, n)
        UNION ALL SELECT 'first', bin, n FROM unnest(first_bins, first_counts) AS f (bin, n)
    ) b GROUP BY GROUPING SETS ((of, bin), (model_used, of, bin))
), ranked AS (
    SELECT model, of, bin, sum(n) OVER (PARTITION BY model, of ORDER BY bin) AS upto,
        sum(n) OVER (PARTITION BY model, of) AS total
    FROM bins
), times AS (
    SELECT model, of, ARRAY[min(bin) FILTER (WHERE upto >= 0.5 * total),
        min(bin) FILTER (WHERE upto >= 0.95 * total),
        min(bin) FILTER (WHERE upto >= 0.99 * total)] AS percentiles
    FROM ranked GROUP BY model, of
)
SELECT m.*, took.percentiles AS took, first.percentiles AS first FROM models m
LEFT JOIN times took ON took.of = 'took' AND took.model IS NOT DISTINCT FROM m.model
LEFT JOIN times first ON first.of = 'first' AND first.model IS NOT DISTINCT FROM m.model
ORDER BY calls DESC, m.model NULLS FIRST
