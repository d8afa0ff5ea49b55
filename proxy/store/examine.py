"""Examine: questions to the database whose answers show that something is silently wrong.

Each gives rows of `calls` (how many), who they are of, and the id of the latest; none is good.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from proxy.store.migrate import pending
from proxy.store.postgres import Row, Store

ROWS_MAX = 20
LAG_S = 600  # a call that the linker has not placed by then is late

_WHO = "COALESCE(client, 'unknown client') AS client, endpoint, model_used AS model"
_CALLS = "FROM agent_telemetry WHERE record_type = 'llm_call' AND created_at >= $1"
_LATEST = "(array_agg(id ORDER BY created_at DESC))[1] AS latest"
_LISTED = f"ORDER BY calls DESC LIMIT {ROWS_MAX}"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, what is wrong where there is an answer, and what to do."""

    name: str
    meaning: str
    remedy: str
    query: str
    condition: str | None = None  # of the rows of calls that it is about


def _of_calls(where: str, *, more: str = "") -> str:
    who = f"{_WHO}{more}"
    groups = ", ".join(str(n) for n in range(2, 5 + bool(more)))
    return (
        f"SELECT count(*) AS calls, {who}, {_LATEST} {_CALLS} AND {where} "
        f"GROUP BY {groups} {_LISTED}"
    )


# An answer cut off while the model was still thinking, or refused, may well be empty.
_EMPTY = """status = 200 AND outcome = 'complete' AND response_text IS NULL AND tool_calls IS NULL
    AND COALESCE(capture ->> 'content', 'full') <> 'metadata'
    AND NOT COALESCE(capture ? 'media', FALSE)
    AND lower(COALESCE(finish_reason, '')) NOT IN ('length', 'max_tokens', 'max_output_tokens',
        'content_filter', 'refusal', 'safety', 'queued', 'in_progress')
    AND COALESCE(completion_tokens, 1) > 0"""
_PROBLEM = """, jsonb_array_elements_text(CASE WHEN jsonb_typeof(capture -> 'problems') = 'array'
    THEN capture -> 'problems' ELSE '[]' END) AS problem"""

QUESTIONS = (
    Question(
        "empty answers",
        "status 200, and neither text nor a tool call was found in the answer",
        'look at one: agent-telemetry replay, or decode with capture.raw = "all"',
        _of_calls(_EMPTY),
        _EMPTY,
    ),
    Question(
        "decoder problems",
        "bytes that the decoders could not read",
        "an update may know them; recompute derives the rows again",
        f"""SELECT count(*) AS calls, client, endpoint, model, left(problem, 120) AS problem,
            (array_agg(id ORDER BY created_at DESC))[1] AS latest
        FROM (SELECT id, created_at, {_WHO}{_PROBLEM} {_CALLS} AND capture ? 'problems') AS found
        WHERE problem NOT LIKE 'redaction failed%' GROUP BY 2, 3, 4, 5 {_LISTED}""",  # noqa: S608 - our own words
        "capture ? 'problems' AND capture ->> 'problems' NOT LIKE '%redaction failed%'",
    ),
    Question(
        "redaction failures",
        "redaction failed, and only metadata was kept",
        "check redaction.rules; the problem is named in the row's capture.problems",
        _of_calls("capture ->> 'problems' LIKE '%redaction failed%'"),
        "capture ->> 'problems' LIKE '%redaction failed%'",
    ),
    Question(
        "cut bodies",
        "bodies longer than is kept",
        "raise capture.max_body_bytes",
        _of_calls("capture ? 'truncated'"),
        "capture ? 'truncated'",
    ),
    Question(
        "refused rows",
        "the database refused the row; a stub stands in its place",
        "correct what refuses them, then: agent-telemetry spool quarantine --resubmit",
        _of_calls("capture ? 'rejected'"),
        "capture ? 'rejected'",
    ),
    Question(
        "crashed gateways",
        "the gateway died during the call",
        "look at its log and at the memory of the machine",
        _of_calls("outcome = 'proxy_crashed'"),
        "outcome = 'proxy_crashed'",
    ),
    Question(
        "exchanges set aside",
        "exchanges that could not become rows",
        "agent-telemetry spool quarantine",
        f"""SELECT count(*) AS calls, reason, (array_agg(id ORDER BY created_at DESC))[1] AS latest
        FROM agent_raw WHERE reason <> 'kept' AND created_at >= $1 GROUP BY 2 {_LISTED}""",  # noqa: S608 - our own words
    ),
    Question(
        "calls not linked",
        f"calls that wait for their place in a conversation for over {LAG_S // 60} minutes",
        "check that a recorder runs",
        f"""SELECT count(*) AS calls, min(created_at) AS since, (array_agg(call_id))[1] AS latest
        FROM agent_links WHERE is_pending AND created_at >= $1
            AND created_at < CURRENT_TIMESTAMP - INTERVAL '{LAG_S} seconds'
        HAVING count(*) > 0""",  # noqa: S608 - our own words
    ),
    Question(
        "lost histories",
        "what a call shares with others is not there; its row shows an empty history",
        "restore agent_messages and agent_chains from a backup",
        """SELECT count(*) AS calls, (array_agg(t.id ORDER BY t.created_at DESC))[1] AS latest
        FROM agent_telemetry t JOIN agent_contexts c ON c.call_id = t.id
        WHERE t.created_at >= $1 AND c.history IS NOT NULL AND NOT EXISTS (
            SELECT FROM agent_chains n JOIN agent_messages m ON m.day = c.day AND m.hash = n.message
            WHERE n.day = c.day AND n.hash = c.history)
        HAVING count(*) > 0""",
    ),
)

OF_CALLS = tuple(question for question in QUESTIONS if question.condition is not None)
_COUNTED = ", ".join(
    f"count(*) FILTER (WHERE {q.condition}) AS n{n}" for n, q in enumerate(OF_CALLS)
)
COUNTS = f"SELECT count(*) AS calls, {_COUNTED} {_CALLS}"
"""How many calls since $1, and for each of `OF_CALLS` in turn how many it is about: n0, n1 …"""

INDEXES = (
    *("idx_agent_telemetry_project", "idx_agent_telemetry_created_at"),
    *("idx_agent_telemetry_session", "idx_agent_telemetry_stop"),
    "idx_agent_telemetry_record_type",
)
_MISSING = """
SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NULL
UNION ALL
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass('agent_telemetry') AND NOT i.indisvalid
"""


async def missing(store: Store, dsn: str) -> list[str]:
    """Migrations not applied, and indexes that are not there or cannot be used."""
    found = [f"migration {name}" for name in await pending(dsn)]
    if found:
        return found
    return [row["name"] for row in await store.fetch(_MISSING, list(INDEXES))]


async def answers(store: Store, question: Question, since: datetime) -> list[Row]:
    """What is wrong since then, the most frequent first."""
    return await store.fetch(question.query, since)
