-- What is new in the prompt of each call, against the call that it goes on from: the messages after
-- those that both begin with, and instructions and tools where they differ or there is no such call.
-- $1 calls, $2 messages of one call at most, $3 characters of instructions at most
WITH linked AS (
    SELECT id, CASE
        WHEN capture #>> '{link,kind}' IN ('continues', 'retries', 'forks', 'compacted')
            AND capture #>> '{link,parent}' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        THEN (capture #>> '{link,parent}')::uuid END AS parent
    FROM agent_telemetry WHERE id = ANY($1::uuid[])
), read AS MATERIALIZED ( -- once each: a history may have to be put together
    SELECT id, chat_history, system_prompt, request_params FROM agent_telemetry_full
    WHERE id IN (SELECT id FROM linked UNION SELECT parent FROM linked)
), whole AS MATERIALIZED (
    SELECT id, system_prompt,
        CASE jsonb_typeof(chat_history) WHEN 'array' THEN chat_history ELSE '[]' END AS history,
        COALESCE(request_params -> 'tools', request_params #> '{toolConfig,tools}') AS tools
    FROM read
), prompts AS (
    SELECT c.id, p.id AS previous, c.system_prompt, p.system_prompt AS system_before,
        c.history, p.history AS history_before, c.tools, p.tools AS tools_before
    FROM linked l JOIN whole c ON c.id = l.id LEFT JOIN whole p ON p.id = l.parent
), compared AS (
    SELECT *, (
        SELECT COALESCE(
            min(n.place) FILTER (WHERE n.message IS DISTINCT FROM o.message), count(*) + 1) - 1
        FROM jsonb_array_elements(history) WITH ORDINALITY AS n (message, place)
        LEFT JOIN jsonb_array_elements(history_before) WITH ORDINALITY AS o (message, place)
            USING (place)
    )::integer AS same
    FROM prompts
)
SELECT id, previous, same, jsonb_array_length(history) AS messages,
    jsonb_array_length(history_before) AS messages_before,
    jsonb_path_query_array(history, 'lax $[$begin to $end]',
        jsonb_build_object('begin', same, 'end', same + $2::integer - 1)) AS added,
    jsonb_path_query_array(history_before, 'lax $[$begin to $end]',
        jsonb_build_object('begin', same, 'end', same + $2::integer - 1)) AS removed,
    CASE WHEN system_before IS DISTINCT FROM system_prompt THEN left(system_prompt, $3) END
        AS system_prompt,
    CASE WHEN system_before IS DISTINCT FROM system_prompt THEN left(system_before, $3) END
        AS system_before,
    CASE WHEN tools IS DISTINCT FROM tools_before THEN tools END AS tools,
    CASE WHEN tools IS DISTINCT FROM tools_before THEN tools_before END AS tools_before
FROM compared
