"""Row view: one record, column by column, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import orjson

from proxy.log import escaped

TEXT_CHARS_MAX = 600


def as_text(row: Mapping[str, Any]) -> str:
    """A line per column that is set; long values are cut, and say so."""
    return "\n".join(f"{name:<20}{_short(value)}" for name, value in _set(row))


def as_json(row: Mapping[str, Any]) -> bytes:
    """All columns as one JSON object on one line."""
    return orjson.dumps(dict(row), default=_plain, option=orjson.OPT_NON_STR_KEYS)


def _set(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in row.items() if value not in (None, "", []))


def _short(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    text = value if isinstance(value, str) else as_json({"": value})[4:-1].decode()
    shown = escaped(text)
    rest = len(shown) - TEXT_CHARS_MAX
    return shown if rest <= 0 else f"{shown[:TEXT_CHARS_MAX]}… ({rest} more characters)"


def _plain(value: Any) -> Any:
    if isinstance(value, int):  # beyond 64 bits: orjson has no number for it
        return str(value)
    return str(value)
