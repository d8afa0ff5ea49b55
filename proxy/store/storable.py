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
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import orjson

from proxy.record import COLUMNS, TelemetryRecord

DEPTH_MAX = 254  # what orjson writes; PostgreSQL's parser ends between 7,000 and 30,000
BYTES_MAX = 64 * 1024 * 1024  # all columns together stay below PostgreSQL's 1 GiB for one row
NODES_MAX = 2_000_000  # a jsonb value of numbers is up to 16 times its text
KEPT_BYTES_MAX = 1024 * 1024  # of what is too deep or too large to stay JSON
PIECES_BYTES_MAX = BYTES_MAX // 4  # within every limit of a whole column
LABEL_MAX = 255
LABEL_KEPT = 222  # + "-" + 32 hexadecimal digits = LABEL_MAX
INT4_MIN, INT4_MAX = -(2**31), 2**31 - 1
_DOUBLE_MAX = int(sys.float_info.max)
_COST_DIGITS = 30  # before and after the point; more is no amount of money
_DIGITS_MAX = 4300  # where Python refuses to write an integer in decimal

_REPLACEMENT = "\ufffd"
_STRICT = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_CONTAINERS = (dict, list, tuple)


@dataclass(slots=True)
class Cleaning:
    """What was changed in one column so far."""

    reasons: set[str] = field(default_factory=set)
    nodes: int = 0


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
    return _encoded({**noted, "sanitized": sanitized})


# --- text ---


def _text(value: Any, cleaning: Cleaning) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        cleaning.reasons.add("type")
        value = _named(value)
    return _string(value, cleaning, BYTES_MAX)


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


def json_of(value: Any) -> str:
    """A value as JSON that PostgreSQL takes; None is JSON's null."""
    return json_text(value, Cleaning()) or "null"


def _string(text: str, cleaning: Cleaning, bytes_max: int) -> str:
    """The text as PostgreSQL can hold it, at most so long."""
    text = _characters(text, cleaning)
    if len(text) * 4 <= bytes_max or len(encoded := text.encode()) <= bytes_max:
        return text
    cleaning.reasons.add("size")
    return encoded[:bytes_max].decode(errors="ignore")


def _characters(text: str, cleaning: Cleaning) -> str:
    if "\0" in text:
        cleaning.reasons.add("nul")
        text = text.replace("\0", _REPLACEMENT)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            cleaning.reasons.add("surrogate")
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _named(value: Any) -> str:
    """A value of a foreign type as text; unknown types by their name alone."""
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    if isinstance(value, int):
        return _digits(value)
    known = (float, Decimal, UUID, datetime)
    return str(value) if isinstance(value, known) else f"<{type(value).__name__}>"


def _digits(number: int) -> str:
    """All digits of an integer, in hexadecimal where decimal would take quadratic time."""
    is_writable = number.bit_length() < _DIGITS_MAX * 3
    return str(int(number)) if is_writable else hex(number)


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


# --- JSON ---


class _TooManyNodes(Exception):
    """More values than NODES_MAX in one column. Never leaves this module."""


class _Literal(str):
    """A piece of JSON syntax, told from a string that is yet to be written."""

    __slots__ = ()


def json_text(value: Any, cleaning: Cleaning, options: int = 0) -> str | None:
    """JSON text that jsonb takes; None is SQL NULL. `options` are further ones of orjson."""
    if value is None:
        return None
    if (as_it_is := _unchanged(value, options)) is not None:
        return as_it_is
    try:
        text = _encoded(_clean(value, cleaning, 1), options)
    except _TooManyNodes:
        return _beginning(value, cleaning)
    is_small = len(text) * 4 <= BYTES_MAX or len(text.encode()) <= BYTES_MAX
    return text if is_small else _beginning(value, cleaning)


def _unchanged(value: Any, options: int = 0) -> str | None:
    """The text of a value that needs no cleaning, ten times as fast; None where that is not sure.

    orjson itself refuses surrogates, integers of more than 64 bits, depth, keys and types that
    are not JSON's. It writes NUL as an escape, and NaN and Infinity as null.
    """
    try:
        written = orjson.dumps(value, option=_STRICT | options)
    except orjson.JSONEncodeError:
        return None
    is_clean = b"\\u0000" not in written and b"null" not in written
    return written.decode() if is_clean and len(written) <= 2 * NODES_MAX else None


def json_pieces(items: list[Any], cleaning: Cleaning) -> list[str] | None:
    """The JSON text of each item of an array, with sorted keys; None: keep the array as one.

    Together they are what `json_text` makes of the array.
    """
    pieces: list[str] = []
    noted = Cleaning()
    for item in items:
        written = _unchanged([item], orjson.OPT_SORT_KEYS)
        if written is None:
            try:
                written = _encoded([_clean(item, noted, 2)], orjson.OPT_SORT_KEYS)
            except _TooManyNodes:
                return None
        pieces.append(written[1:-1])
    if not _are_within_limits(pieces):
        return None
    cleaning.reasons |= noted.reasons
    return pieces


def _are_within_limits(pieces: list[str]) -> bool:
    """Whether the array of them would stay JSON: not too long, and not of too many values."""
    size = sum(map(len, pieces))
    if size <= 2 * NODES_MAX:  # a value and what separates it from the next take two bytes
        return True
    nodes = sum(piece.count(sign) for piece in pieces for sign in ",[{")
    return size <= PIECES_BYTES_MAX and nodes < NODES_MAX


def _required_json(value: Any, cleaning: Cleaning) -> str:
    return json_text(value, cleaning) or "[]"


def _beginning(value: Any, cleaning: Cleaning) -> str:
    """The beginning of the value's text, in a value of the same kind."""
    cleaning.reasons.add("size")
    kept = _written(value, KEPT_BYTES_MAX)
    return _encoded({"truncated": kept} if isinstance(value, dict) else [kept])


def _encoded(clean: Any, options: int = 0) -> str:
    try:
        return orjson.dumps(clean, option=options).decode()
    except orjson.JSONEncodeError:  # an integer of more than 64 bits
        is_sorted = bool(options & orjson.OPT_SORT_KEYS)
        return json.dumps(clean, ensure_ascii=False, separators=(",", ":"), sort_keys=is_sorted)


def _clean(value: Any, cleaning: Cleaning, depth: int) -> Any:
    cleaning.nodes += 1
    if cleaning.nodes > NODES_MAX:
        raise _TooManyNodes
    if isinstance(value, str):
        return _string(value, cleaning, BYTES_MAX)
    if isinstance(value, _CONTAINERS):
        if depth > DEPTH_MAX:
            cleaning.reasons.add("depth")
            return _written(value, KEPT_BYTES_MAX)
        if isinstance(value, dict):
            return _clean_members(value, cleaning, depth)
        return [_clean(item, cleaning, depth + 1) for item in value]
    return _clean_scalar(value, cleaning)


def _clean_members(value: dict[Any, Any], cleaning: Cleaning, depth: int) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, item in value.items():
        key = name
        if not isinstance(key, str):
            cleaning.reasons.add("key")
            key = _named(key)
        key = _string(key, cleaning, KEPT_BYTES_MAX)
        while key in members:
            cleaning.reasons.add("key")
            key += _REPLACEMENT
        members[key] = _clean(item, cleaning, depth + 1)
    return members


def _clean_scalar(value: Any, cleaning: Cleaning) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if -_DOUBLE_MAX <= value <= _DOUBLE_MAX:
            return int(value)
        cleaning.reasons.add("number")
        return _digits(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        cleaning.reasons.add("number")
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    cleaning.reasons.add("type")
    return _string(_named(value), cleaning, BYTES_MAX)


def _written(value: Any, bytes_max: int) -> str:
    """JSON text of a value of any depth, cut; without recursion."""
    pieces: list[str] = []
    size = 0
    pending: list[Any] = [value]
    while pending and size <= bytes_max:
        item = pending.pop()
        if isinstance(item, dict):
            pending += [_Literal("}"), *reversed(_member_tokens(item))]
            item = _Literal("{")
        elif isinstance(item, list | tuple):
            pending += [_Literal("]"), *reversed(_item_tokens(item))]
            item = _Literal("[")
        piece = item if isinstance(item, _Literal) else _scalar_text(item)
        pieces.append(piece)
        size += len(piece)
    return "".join(pieces).encode()[:bytes_max].decode(errors="ignore")


def _member_tokens(members: dict[Any, Any]) -> list[Any]:
    tokens: list[Any] = []
    for name, item in members.items():
        key = name if isinstance(name, str) else _named(name)
        tokens += [_Literal(","), _Literal(_scalar_text(key) + ":"), item]
    return tokens[1:]


def _item_tokens(items: list[Any] | tuple[Any, ...]) -> list[Any]:
    tokens: list[Any] = []
    for item in items:
        tokens += [_Literal(","), item]
    return tokens[1:]


def _scalar_text(value: Any) -> str:
    """One scalar as JSON text; NUL stays an escape and so survives as text."""
    if not isinstance(value, str):
        value = _clean_scalar(value, Cleaning())
    return _characters(json.dumps(value, ensure_ascii=False), Cleaning())


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
