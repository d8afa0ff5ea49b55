"""Jsonb: any value as JSON, and any string as text, that PostgreSQL takes. Nothing here raises.

What has to be changed is noted in a `Cleaning`, by the reasons that `storable` names.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

DEPTH_MAX = 254  # what orjson writes; PostgreSQL's parser ends between 7,000 and 30,000
BYTES_MAX = 64 * 1024 * 1024  # all columns together stay below PostgreSQL's 1 GiB for one row
NODES_MAX = 2_000_000  # a jsonb value of numbers is up to 16 times its text
KEPT_BYTES_MAX = 1024 * 1024  # of what is too deep or too large to stay JSON
PIECES_BYTES_MAX = BYTES_MAX // 4  # within every limit of a whole column
_DOUBLE_MAX = int(sys.float_info.max)
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
        text = encoded(_clean(value, cleaning, 1), options)
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
                written = encoded([_clean(item, noted, 2)], orjson.OPT_SORT_KEYS)
            except _TooManyNodes:
                return None
        pieces.append(written[1:-1])
    if not _are_within_limits(pieces):
        return None
    cleaning.reasons |= noted.reasons
    return pieces


def json_of(value: Any) -> str:
    """A value as JSON that PostgreSQL takes; None is JSON's null."""
    return json_text(value, Cleaning()) or "null"


def _are_within_limits(pieces: list[str]) -> bool:
    """Whether the array of them would stay JSON: not too long, and not of too many values."""
    size = sum(map(len, pieces))
    if size <= 2 * NODES_MAX:  # a value and what separates it from the next take two bytes
        return True
    nodes = sum(piece.count(sign) for piece in pieces for sign in ",[{")
    return size <= PIECES_BYTES_MAX and nodes < NODES_MAX


def _beginning(value: Any, cleaning: Cleaning) -> str:
    """The beginning of the value's text, in a value of the same kind."""
    cleaning.reasons.add("size")
    kept = _written(value, KEPT_BYTES_MAX)
    return encoded({"truncated": kept} if isinstance(value, dict) else [kept])


def encoded(clean: Any, options: int = 0) -> str:
    """What has been cleaned as JSON text, integers of any size included."""
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
        return stored_text(value, cleaning, BYTES_MAX)
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
            key = foreign_text(key)
        key = stored_text(key, cleaning, KEPT_BYTES_MAX)
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
    return stored_text(foreign_text(value), cleaning, BYTES_MAX)


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
        key = name if isinstance(name, str) else foreign_text(name)
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


# --- text ---


def stored_text(text: str, cleaning: Cleaning, bytes_max: int) -> str:
    """The text as PostgreSQL can hold it, at most so long."""
    text = _characters(text, cleaning)
    if len(text) * 4 <= bytes_max or len(written := text.encode()) <= bytes_max:
        return text
    cleaning.reasons.add("size")
    return written[:bytes_max].decode(errors="ignore")


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


def foreign_text(value: Any) -> str:
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
