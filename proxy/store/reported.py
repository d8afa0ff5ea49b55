"""Reported: reports from outside, written where the linker and exports find them.

Idempotent by id. What a report says of a turn is applied by the linker; feedback is only kept.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from proxy.report import FeedbackReport, Report, TurnReport, turn_of
from proxy.store.jsonb import json_of
from proxy.store.postgres import Store
from proxy.store.storable import session_of
from proxy.turn import conversation_id

_TURN = """
INSERT INTO agent_reports
    (id, created_at, project_id, session_id, conversation, turn_id, report)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb) ON CONFLICT (id) DO NOTHING
"""
_FEEDBACK = """
INSERT INTO agent_feedback
    (id, created_at, project_id, session_id, turn_id, call_id, name, value, comment)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9) ON CONFLICT (id) DO NOTHING
"""
_NOT_SAID = frozenset({"project_id", "session_id", "turn_id"})  # these say of which turn


async def write_report(store: Store, id: UUID, at: datetime, report: Report) -> None:
    """Keep a report. Raises StoreUnavailable, StoreMisconfigured, or RowRejected."""
    if isinstance(report, TurnReport):
        await store.execute(_TURN, *_turn_values(id, at, report))
    else:
        await store.execute(_FEEDBACK, *_feedback_values(id, at, report))


def _turn_values(id: UUID, at: datetime, report: TurnReport) -> tuple[Any, ...]:
    said = {k: v for k, v in report.values().items() if k not in _NOT_SAID}
    return (
        id,
        at,
        session_of(report.project_id),
        session_of(report.session_id),
        conversation_id(report.project_id, report.session_id),
        turn_of(report),
        json_of(said),
    )


def _feedback_values(id: UUID, at: datetime, report: FeedbackReport) -> tuple[Any, ...]:
    return (
        id,
        at,
        session_of(report.project_id),
        session_of(report.session_id),
        turn_of(report),
        report.call_id,
        session_of(report.name),
        json_of(report.value),
        report.comment.replace("\0", "\ufffd") if report.comment else None,
    )
