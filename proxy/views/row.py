"""Row view: one record, column by column, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from proxy.log import escaped, json_line

TEXT_CHARS_MAX = 600


def as_text(row: Mapping[str, Any]) -> str:
    """A line per column that is set; long values are cut, and say so."""
    return "\n".join(f"{name:<20}{_short(value)}" for name, value in _set(row))


def as_json(row: Mapping[str, Any]) -> bytes:
    """All columns as one JSON object on one line, which a terminal may show."""
    return json_line(dict(row)).encode()


def _set(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in row.items() if value not in (None, "", []))


def _short(value: Any) -> str:
    is_plain = isinstance(value, str | int | float | bool | Decimal | UUID | datetime)
    text = str(value) if is_plain else as_json({"": value})[4:-1].decode()
    shown = escaped(text)
    rest = len(shown) - TEXT_CHARS_MAX
    return shown if rest <= 0 else f"{shown[:TEXT_CHARS_MAX]}… ({rest} more characters)"
