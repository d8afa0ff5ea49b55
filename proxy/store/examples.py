"""Examples: which calls and turns a data set may be made of, as SQL. Column names are our own.

`skeleton` gives every call and turn of the conversations in question without content, ordered by
conversation and time, so that one conversation at a time has to be held.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

# A row that a data set can be made of: as in the view agent_training.
IS_WHOLE = """t.outcome = 'complete' AND NOT COALESCE(t.capture ? 'truncated', FALSE)
    AND COALESCE(t.capture ->> 'content', 'full') <> 'metadata'"""
CONTENT = """
SELECT id, project_id, session_id, turn_id, model_used, provider, endpoint, system_prompt,
    chat_history, response_text, response_thoughts, tool_calls, request_params, prompt_tokens,
    completion_tokens, total_tokens, capture -> 'blobs' AS blobs
FROM agent_telemetry_full WHERE id = ANY($1)
"""
BLOB = "SELECT content FROM agent_blobs WHERE sha256 = $1"

_COMPARED = re.compile(r"([^<>=]+?)\s*(?:(<=|>=|<|>|=)\s*(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Feedback:
    """A condition on what was said about a call, its turn, or its conversation."""

    name: str
    comparison: str | None = None
    value: str = ""

    @classmethod
    def of(cls, text: str) -> Feedback:
        """From `NAME`, `NAME=VALUE` or `NAME>=NUMBER`. Raises ValueError."""
        found = _COMPARED.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r}: write NAME, NAME=VALUE or NAME>=NUMBER")
        name, comparison, value = found.groups()
        if comparison not in (None, "="):
            _checked_number(text, value)
        return cls(name, comparison, value or "")


def _checked_number(text: str, value: str) -> None:
    try:
        float(value)
    except ValueError:
        raise ValueError(f"{text!r}: {value!r} is no number") from None


@dataclass(frozen=True, slots=True)
class Filters:
    """What the calls of a data set have in common. `since` is inclusive, `until` is not.

    `since`, models, labels, tokens and feedback are asked of the call that holds the example; what
    came from `until` on counts as not there at all.
    """

    project: str | None = None
    session: str | None = None
    models: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    tokens_max: int | None = None
    labels: tuple[tuple[str, str | None], ...] = ()
    feedback: tuple[Feedback, ...] = ()


def skeleton(filters: Filters) -> tuple[str, list[Any]]:
    """The query and its parameters."""
    query = _Query()
    scope, wanted = _scope(filters, query), _wanted(filters, query)
    text = f"""
SELECT t.id, t.record_type, t.project_id, t.session_id, t.created_at, t.parent_id, t.turn_id,
    t.stop_reason, t.rounds, t.capture -> 'evidence' ->> -1 AS last_call,
    t.capture -> 'link' ->> 'kind' AS kind, t.capture -> 'link' ->> 'evidence' AS evidence,
    COALESCE(t.capture ->> 'context' = 'partial', FALSE) AS is_partial,
    t.capture ->> 'response_id' AS response,
    CASE WHEN t.capture ->> 'context' = 'partial'
        THEN t.request_params ->> 'previous_response_id' END AS previous,
    COALESCE({IS_WHOLE}, FALSE) AS is_whole, COALESCE({wanted}, FALSE) AS is_wanted,
    COALESCE(c.size_bytes, pg_column_size(t.chat_history)) AS size_bytes
FROM agent_telemetry t LEFT JOIN agent_contexts c ON c.call_id = t.id WHERE {scope}
ORDER BY t.project_id COLLATE "C" NULLS FIRST, t.session_id COLLATE "C" NULLS FIRST,
    t.created_at, t.id
"""  # noqa: S608 - values are parameters
    return text, query.values


class _Query:
    """The parameters of a query under construction."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __call__(self, value: Any) -> str:
        """The place of one more parameter."""
        self.values.append(value)
        return f"${len(self.values)}"


def _scope(filters: Filters, place: _Query) -> str:
    """Whole conversations, up to `until`: earlier turns decide about later ones."""
    conditions = ["TRUE"]
    if filters.project is not None:
        conditions.append(f"t.project_id = {place(filters.project)}")
    if filters.session is not None:
        conditions.append(f"t.session_id = {place(filters.session)}")
    if filters.until is not None:
        conditions.append(f"t.created_at < {place(filters.until)}")
    if filters.since is not None:
        since = place(filters.since)
        recent = f"SELECT session_id FROM agent_telemetry WHERE created_at >= {since}"  # noqa: S608 - a parameter
        conditions.append(f"(t.created_at >= {since} OR t.session_id IN ({recent}))")
    return " AND ".join(conditions)


def _wanted(filters: Filters, place: _Query) -> str:
    conditions = ["TRUE"]
    if filters.models:
        conditions.append(f"t.model_used = ANY({place(list(filters.models))})")
    if filters.since is not None:
        conditions.append(f"t.created_at >= {place(filters.since)}")
    if filters.tokens_max is not None:
        total = "COALESCE(t.total_tokens, t.prompt_tokens + t.completion_tokens)"
        conditions.append(f"{total} <= {place(filters.tokens_max)}")
    for name, value in filters.labels:
        if value is None:
            conditions.append(f"t.labels ? {place(name)}")
        else:
            conditions.append(f"t.labels ->> {place(name)} = {place(value)}")
    conditions += (_said(feedback, place) for feedback in filters.feedback)
    return " AND ".join(conditions)


def _said(feedback: Feedback, place: _Query) -> str:
    """Whether somebody said so of the call, its turn, or its conversation as a whole.

    What was said of a session without naming a project holds for it in whatever project it is.
    """
    condition = f"f.name = {place(feedback.name)}"
    if feedback.comparison == "=":
        condition += f" AND f.value = ANY({place(_values(feedback.value))}::jsonb[])"
    elif feedback.comparison is not None:
        number = "CASE WHEN jsonb_typeof(f.value) = 'number' THEN f.value::numeric END"
        condition += f" AND {number} {feedback.comparison} {place(feedback.value)}::text::numeric"
    said = f"FROM agent_feedback f WHERE {condition}"
    of_session = "f.call_id IS NULL AND f.turn_id IS NULL AND f.session_id IS NOT NULL"
    return f"""(t.id IN (SELECT f.call_id {said} AND f.call_id IS NOT NULL)
    OR t.turn_id IN (SELECT f.turn_id {said} AND f.turn_id IS NOT NULL)
    OR t.session_id IN (SELECT f.session_id {said} AND {of_session} AND f.project_id IS NULL)
    OR (t.project_id, t.session_id) IN (
        SELECT f.project_id, f.session_id {said} AND {of_session} AND f.project_id IS NOT NULL))"""


def _values(text: str) -> list[Any]:
    """The JSON values that a text on the command line may mean."""
    values: list[Any] = [text]
    with contextlib.suppress(ValueError):
        values.append(json.loads(text))
    return values
