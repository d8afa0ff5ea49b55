"""Report view: the answer to a diagnostic question as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from proxy.views.lines import count, duration, one_line

CELL_CHARS_MAX = 40
CELL_CHARS_MIN = 8  # a column of text gives way down to this


def as_text(title: str, rows: Sequence[Mapping[str, Any]], width: int) -> str:
    """The rows under their column names, at most `width` characters wide."""
    if not rows:
        return f"{title}: nothing in this time"
    names = list(rows[0])
    cells = [[_cell(name, row[name]) for name in names] for row in rows]
    widths = [max(len(line[n]) for line in [_heads(names), *cells]) for n in range(len(names))]
    is_number = [_is_number([row[name] for row in rows]) for name in names]
    widths = _fitted(widths, is_number, width)
    lines = [_line(line, widths, is_number, width) for line in [_heads(names), *cells]]
    return "\n".join([title, *lines])


def _fitted(widths: Sequence[int], is_number: Sequence[bool], width: int) -> list[int]:
    """The widths, with columns of text cut where all together have no room: the widest first."""
    found = list(widths)
    texts = [n for n, is_one in enumerate(is_number) if not is_one]
    while texts and sum(found) + 2 * (len(found) - 1) > width:
        widest = max(texts, key=found.__getitem__)
        if found[widest] <= CELL_CHARS_MIN:
            break
        found[widest] -= 1
    return found


def _heads(names: Sequence[str]) -> list[str]:
    shown = (name.removesuffix("_ms").replace("_percent", " %") for name in names)
    shown = (name.removesuffix("_tokens") for name in shown)
    return [name.replace("_usd", " $").replace("_", " ") for name in shown]


def _line(
    cells: Sequence[str], widths: Sequence[int], is_number: Sequence[bool], width: int
) -> str:
    columns = zip(cells, widths, is_number, strict=True)
    text = "  ".join(c.rjust(w) if right else _cut(c, w) for c, w, right in columns).rstrip()
    return text if len(text) <= width else text[: width - 1] + "…"


def _cut(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else cell[: width - 1] + "…"


def _is_number(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(value, int | float | Decimal) for value in known)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%m-%d %H:%M:%S")
    if name.endswith("_ms"):
        return duration(int(value))
    if name.endswith("tokens"):
        return count(int(value))
    is_text = name == "user_message" or name == "error"
    return one_line(str(value), 80 if is_text else CELL_CHARS_MAX)
