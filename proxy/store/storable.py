"""Storable: any record becomes values that PostgreSQL takes. Pure and total: nothing here raises.

What PostgreSQL refuses, or would keep differently, is changed as little as possible, and each
change is named in `capture.sanitized` as `{column: [reason, …]}`:

    nul         U+0000 in a string becomes U+FFFD (neither text nor jsonb can hold it). The six
                characters backslash-u0000 in a text are no NUL and stay.
    surrogate   a lone surrogate becomes U+FFFD; two halves that fit become their character
    number      NaN, Infinity and integers beyond the range of a double become strings; everything
                else stays exact
    depth       what lies deeper than DEPTH_MAX is kept as a string of JSON
    size        strings and columns are cut at BYTES_MAX; a JSON column with more than NODES_MAX
                values is kept as the beginning of its text
    length      a label longer than its column: hashed or cut, see `_identity`
    range       a number that does not fit its column is clamped; a cost that is none is NULL
    type        a value of a type the column or JSON does not know
    key         a JSON key that is no string, or that became equal to another by the above
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

from proxy.record import COLUMNS, TelemetryRecord
from proxy.store.jsonb import BYTES_MAX, Cleaning, encoded, foreign_text, json_text, stored_text

LABEL_MAX = 255
LABEL_KEPT = 222  # + "-" + 32 hexadecimal digits = LABEL_MAX
INT4_MIN, INT4_MAX = -(2**31), 2**31 - 1
_COST_DIGITS = 30  # before and after the point; more is no amount of money

Rule = Callable[[Any, Cleaning], Any]
"""Makes a value of one column storable, and notes what it had to change."""


def storable(
    record: TelemetryRecord, rules: Mapping[str, Rule] = MappingProxyType({})
) -> tuple[Any, ...]:
    """The record's values in the order of `COLUMNS`, JSON columns as JSON text.

    `rules` are used instead of the usual ones of their columns.
    """
    sanitized: dict[str, list[str]] = {}
    row: list[Any] = []
    cleaning = Cleaning()
    for column, usual, is_nullable in _PLAN:
        value = getattr(record, column)
        if value is None and is_nullable:
            row.append(None)
            continue
        row.append(rules.get(column, usual)(value, cleaning))
        if cleaning.reasons:
            sanitized[column] = sorted(cleaning.reasons)
        if cleaning.reasons or cleaning.nodes:
            cleaning = Cleaning()
    row.append(_capture(record.capture, sanitized))
    return tuple(row)


def _capture(capture: Any, sanitized: dict[str, list[str]]) -> str | None:
    """The column `capture`, last because it says what was changed in all columns."""
    cleaning = Cleaning()
    text = json_text(capture, cleaning)
    if cleaning.reasons:
        sanitized["capture"] = sorted(cleaning.reasons)
    if not sanitized:
        return text
    cleaned = json.loads(text) if text is not None else {}
    noted = cleaned if isinstance(cleaned, dict) else {"capture": cleaned}
    return encoded({**noted, "sanitized": sanitized})


# --- text ---


def _text(value: Any, cleaning: Cleaning) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        cleaning.reasons.add("type")
        value = foreign_text(value)
    return stored_text(value, cleaning, BYTES_MAX)


def required_text(value: Any, cleaning: Cleaning) -> str:
    return _text(value, cleaning) or ""


def _short_text(value: Any, cleaning: Cleaning) -> str | None:
    text = _text(value, cleaning)
    if text is not None and len(text) > LABEL_MAX:
        cleaning.reasons.add("length")
        return text[:LABEL_MAX]
    return text


def _model(value: Any, cleaning: Cleaning) -> str:
    return _short_text(value, cleaning) or "unknown"


def _identity(value: Any, cleaning: Cleaning) -> str | None:
    """A label that names a conversation: two different ones never become the same."""
    text = _text(value, cleaning)
    if text is None or len(text) <= LABEL_MAX:
        return text
    cleaning.reasons.add("length")
    digest = hashlib.sha256(str.encode(value, "utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{text[:LABEL_KEPT]}-{digest}"


def session_of(label: str | None) -> str | None:
    """A session, or a project, as its column holds it."""
    return _identity(label, Cleaning())


# --- numbers, instants, ids ---


def _integer(value: Any, cleaning: Cleaning) -> int | None:
    if value is None:
        return None
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    if not isinstance(value, int):
        cleaning.reasons.add("type")
        return None
    clamped = min(INT4_MAX, max(INT4_MIN, int(value)))
    if clamped != value:
        cleaning.reasons.add("range")
    return clamped


def _required_integer(value: Any, cleaning: Cleaning) -> int:
    return _integer(value, cleaning) or 0


def _amount(value: Any, cleaning: Cleaning) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, float) or type(value) is int:
        value = Decimal(repr(value)) if abs(value) < 10**_COST_DIGITS else Decimal("Infinity")
    if not isinstance(value, Decimal):
        cleaning.reasons.add("type")
        return None
    if not value.is_finite() or value.adjusted() >= _COST_DIGITS:
        cleaning.reasons.add("range")
        return None
    if value.as_tuple().exponent < -_COST_DIGITS:  # type: ignore[operator]  # finite: an integer
        cleaning.reasons.add("range")
        return Decimal(f"{value:.{_COST_DIGITS}f}")
    return value


def _truth(value: Any, cleaning: Cleaning) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    cleaning.reasons.add("type")
    return None


def _instant(value: Any, cleaning: Cleaning) -> datetime | None:
    if not isinstance(value, datetime):
        cleaning.reasons.add("type")
        return None
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:  # the first or last day of the calendar in another zone
        cleaning.reasons.add("range")
        return value.replace(tzinfo=UTC)


def _uuid(value: Any, cleaning: Cleaning) -> UUID | None:
    if value is None or isinstance(value, UUID):
        return value
    cleaning.reasons.add("type")
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _required_json(value: Any, cleaning: Cleaning) -> str:
    return json_text(value, cleaning) or "[]"


_INTEGERS = (
    "rounds tool_call_count prompt_tokens completion_tokens total_tokens round status "
    "cached_tokens cache_write_tokens reasoning_tokens ttft_ms"
)
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_INTEGERS.split(), _integer),
    **dict.fromkeys(("tool_calls", "tool_results", "request_params", "usage", "labels"), json_text),
    **dict.fromkeys(("id", "turn_id", "parent_id"), _uuid),
    **dict.fromkeys(("record_type", "system_prompt"), required_text),
    "project_id": _identity,
    "session_id": _identity,
    "model_used": _model,
    **dict.fromkeys(("stop_reason", "outcome"), _short_text),  # both are in indexes
    "chat_history": _required_json,
    "duration_ms": _required_integer,
    "created_at": _instant,
    "streamed": _truth,
    "cost_usd": _amount,
}
_REQUIRED = (required_text, _required_json, _required_integer, _model)
_PLAN: tuple[tuple[str, Rule, bool], ...] = tuple(
    (column, rule, rule not in _REQUIRED)
    for column in COLUMNS[:-1]
    for rule in (_RULES.get(column, _text),)
)
