"""Row view: one record, column by column, for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from proxy.log import escaped

TEXT_CHARS_MAX = 600


def as_text(row: Mapping[str, Any]) -> str:
    """A line per column that is set; long values are cut, and say so."""
    return "\n".join(f"{name:<20}{_short(value)}" for name, value in _set(row))


def as_json(row: Mapping[str, Any]) -> bytes:
    """All columns as one JSON object on one line."""
    try:
        return orjson.dumps(dict(row), default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # integers beyond 64 bits, nesting beyond 254 levels, lone surrogates
        return json.dumps(dict(row), default=str, separators=(",", ":")).encode()


def _set(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in row.items() if value not in (None, "", []))


def _short(value: Any) -> str:
    is_plain = isinstance(value, str | int | float | bool | Decimal | UUID)
    text = str(value) if is_plain else as_json({"": value})[4:-1].decode()
    shown = escaped(text)
    rest = len(shown) - TEXT_CHARS_MAX
    return shown if rest <= 0 else f"{shown[:TEXT_CHARS_MAX]}… ({rest} more characters)"
