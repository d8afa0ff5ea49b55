"""Report: what an orchestrator says of a turn, and what anybody says of a call, turn or session.

The only bodies that the gateway itself reads (`POST /telemetry/v1/turns` and `…/feedback`). They
are checked where they arrive, so that whoever sent one is told what is wrong with it, and again
where they are applied, since the spool lies in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeAlias
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from proxy.endpoints import FEEDBACK_REPORT, TURN_REPORT
from proxy.errors import ReportInvalid
from proxy.turn import turn_id

REPORT_BYTES_MAX = 4 * 1024 * 1024
RESULTS_MAX = 1000
LABELS_MAX = 64
_INT4_MAX = 2**31 - 1

Id = Annotated[str, Field(min_length=1, max_length=4096)]
Word = Annotated[str, Field(min_length=1, max_length=255)]
Number = Annotated[int, Field(ge=0, le=_INT4_MAX)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def values(self) -> dict[str, Any]:
        """What was said, by name."""
        return self.model_dump(exclude_none=True, mode="json")


class ReportedResult(_Strict):
    """A result of a tool, in the form of the column `tool_results`."""

    id: str | None = None
    name: Word | None = None
    round: Number | None = None
    is_error: bool | None = None
    output: JsonValue = None
    latency_ms: Number | None = None


class TurnReport(_Strict):
    """What an orchestrator knows better than the wire."""

    kind: ClassVar[str] = TURN_REPORT.name
    session_id: Id
    turn_id: Id | None = None  # a UUID, or a label of the session
    project_id: Id | None = None
    stop_reason: Word | None = None
    rounds: Number | None = None
    tool_call_count: Number | None = None
    turn_intent: Word | None = None
    chat_mode: Word | None = None
    tool_results: Annotated[list[ReportedResult], Field(max_length=RESULTS_MAX)] | None = None
    user_message: str | None = None
    labels: Annotated[dict[Word, JsonValue], Field(max_length=LABELS_MAX)] | None = None


class FeedbackReport(_Strict):
    """What a person or a program says about a call, a turn or a conversation."""

    kind: ClassVar[str] = FEEDBACK_REPORT.name
    call_id: UUID | None = Field(default=None, strict=False)
    turn_id: Id | None = None
    session_id: Id | None = None
    project_id: Id | None = None
    name: Word
    value: JsonValue
    comment: str | None = None

    @model_validator(mode="after")
    def _is_about_something(self) -> FeedbackReport:
        if self.call_id is None and self.turn_id is None and self.session_id is None:
            raise ValueError("session_id: give one of session_id, turn_id and call_id")
        if self.session_id is None and self.call_id is None and not _is_uuid(self.turn_id):
            raise ValueError("turn_id: give session_id too where this is no UUID")
        return self


Report: TypeAlias = TurnReport | FeedbackReport
_MODELS: Mapping[str, type[TurnReport] | type[FeedbackReport]] = {
    model.kind: model for model in (TurnReport, FeedbackReport)
}


def read(
    kind: str, body: bytes, *, project: str | None = None, session: str | None = None
) -> Report:
    """The report in a body. Project and session are those of the request's labels, if any.

    Raises ReportInvalid, which names the field.
    """
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ReportInvalid("body", "must be one JSON object, not compressed") from None
    if not isinstance(raw, dict):
        raise ReportInvalid("body", "must be one JSON object")
    said = {"project_id": project or None, "session_id": session or None}
    given = {k: v for part in (said, raw) for k, v in part.items() if v is not None}
    try:
        return _MODELS[kind].model_validate(given)
    except ValidationError as error:
        raise _invalid(error) from None


def turn_of(report: Report) -> UUID | None:
    """The turn that the report names; None: it is about something else, or the latest turn."""
    if report.turn_id is None:
        return None
    return turn_id(report.project_id, report.session_id or "", report.turn_id)


def _invalid(error: ValidationError) -> ReportInvalid:
    """The first thing that is wrong, without the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "value_error":  # our own: it names the field itself
        name, _, text = str(first["ctx"]["error"]).partition(": ")
        return ReportInvalid(name, text)
    where = [str(part) for part in first["loc"] if part != "[key]"]
    text = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] == "extra_forbidden":
        text = f"unknown field (in {where[-1][:64]!r})" if len(where) > 1 else "unknown field"
    return ReportInvalid(".".join(where)[:255], text)


def _is_uuid(text: str | None) -> bool:
    try:
        return bool(UUID(text or ""))
    except ValueError:
        return False
