"""TelemetryRecord: one row of the table `agent_telemetry`, and what is kept beside it.

Field names are the column names, in the order of the table. Values are plain Python values; the
store makes each of them fit PostgreSQL (`store/storable.py`), so nothing here needs to be clean.
"""

from __future__ import annotations

from dataclasses import field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from proxy.call import Json
from proxy.nouns import noun
from proxy.turn import Link

DAMAGED = "spool: parts of this exchange were damaged"  # among the problems of a row


@noun(frozen=True, slots=True)
class TelemetryRecord:
    """One row: an `llm_call` or a `turn_summary`. Columns are described in the README."""

    id: UUID
    created_at: datetime
    model_used: str
    duration_ms: int
    record_type: str = "llm_call"
    system_prompt: str = ""
    chat_history: list[Json] = field(default_factory=list)
    project_id: str | None = None
    session_id: str | None = None
    user_message: str | None = None
    response_text: str | None = None
    response_thoughts: str | None = None
    tool_calls: list[Json] | None = None
    tool_results: list[Json] | None = None
    stop_reason: str | None = None
    rounds: int | None = None
    tool_call_count: int | None = None
    turn_intent: str | None = None
    chat_mode: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    turn_id: UUID | None = None
    round: int | None = None
    provider: str | None = None
    endpoint: str | None = None
    streamed: bool | None = None
    status: int | None = None
    outcome: str | None = None
    error: str | None = None
    finish_reason: str | None = None
    request_params: dict[str, Json] | None = None
    usage: Json = None
    usage_source: str | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: Decimal | None = None
    ttft_ms: int | None = None
    provider_request_id: str | None = None
    client: str | None = None
    parent_id: UUID | None = None
    labels: dict[str, Json] | None = None
    capture: dict[str, Json] | None = None

    def as_row(self) -> dict[str, Any]:
        """Column name → value, every column."""
        return {name: getattr(self, name) for name in COLUMNS}


COLUMNS: tuple[str, ...] = tuple(column.name for column in fields(TelemetryRecord))


@noun(frozen=True, slots=True)
class Blob:
    """A medium that stood inline in a record. Kept once, whoever refers to it."""

    sha256: str  # of the content, in hex
    media_type: str | None
    content: bytes


@noun(frozen=True, slots=True)
class Beside:
    """What is stored together with a row, in other tables."""

    blobs: tuple[Blob, ...] = ()
    raw: bytes | None = None  # the exchange it was made from, compressed
    link: Link | None = None  # what linking will want to know of the call
