"""Charts: numbers as places in a drawing. Pure.

Across, places are percent of the width, so that a drawing fits any page; down, they are pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

SERIES_MAX = 6  # told apart by colour; the rest together
HEIGHT = 160.0
REST = "other"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a column: percent across, pixels down."""

    x: float
    width: float
    y: float
    height: float
    series: int
    label: str


@dataclass(frozen=True, slots=True)
class Tick:
    at: float  # percent across, or pixels down
    value: Any


@dataclass(frozen=True, slots=True)
class Stack:
    """Columns over time, stacked by name."""

    names: tuple[str, ...]
    blocks: tuple[Block, ...]
    times: tuple[Tick, ...]
    values: tuple[Tick, ...]
    table: tuple[tuple[datetime, tuple[Any, ...]], ...]  # of intervals with anything in them
    totals: tuple[Any, ...]

    @property
    def total(self) -> Any:
        return sum(self.totals)


def named(rows: Sequence[Row], value: str) -> tuple[str, ...]:
    """The names that have a colour of their own, the largest first; the rest is one more."""
    sums: dict[str, Any] = defaultdict(int)
    for row in rows:
        sums[row["name"]] += row[value]
    ranked = sorted(sums, key=lambda name: (-sums[name], name))
    has_rest = len(ranked) > SERIES_MAX
    return (*ranked[: SERIES_MAX - 1], REST) if has_rest else tuple(ranked)


def stacked(
    rows: Sequence[Row],
    value: str,
    names: Sequence[str],
    since: datetime,
    until: datetime,
    interval: timedelta,
) -> Stack:
    """`rows` hold `at`, the beginning of an interval, `name`, and the value's column.

    What is none of the names counts as the last of them.
    """
    cells: dict[tuple[datetime, str], Any] = defaultdict(int)
    for row in rows:
        cells[row["at"], row["name"] if row["name"] in names else names[-1]] += row[value]
    table = tuple(
        (at, tuple(cells.get((at, name), 0) for name in names))
        for at in sorted({at for at, _ in cells})
    )
    top = max((sum(parts) for _, parts in table), default=0)
    totals = tuple(sum(parts[n] for _, parts in table) for n in range(len(names)))
    ceiling = _ceiling(float(top))
    return Stack(
        tuple(names),
        tuple(_blocks(table, names, since, until, interval, ceiling)),
        tuple(_times(since, until)),
        tuple(Tick(HEIGHT * (1 - n / 2), ceiling * n / 2) for n in range(3)),
        table,
        totals,
    )


def _blocks(
    table: Sequence[tuple[datetime, Sequence[Any]]],
    names: Sequence[str],
    since: datetime,
    until: datetime,
    interval: timedelta,
    ceiling: float,
) -> list[Block]:
    span = max(until - since, interval)
    found = []
    for at, parts in table:
        begin = max(at, since)
        width = 100 * (min(at + interval, until) - begin) / span
        x, y = 100 * (begin - since) / span, HEIGHT
        for series, part in enumerate(parts):
            height = HEIGHT * float(part) / ceiling
            if height > 0:
                y -= height
                found.append(Block(x, max(width * 0.86, 0.15), y, height, series, names[series]))
    return found


def _ceiling(top: float) -> float:
    """The next round number."""
    if top <= 0:
        return 1.0
    power = 1.0
    while power * 10 < top:
        power *= 10
    while power > top:
        power /= 10
    return next(power * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if power * step >= top)


def _times(since: datetime, until: datetime) -> list[Tick]:
    return [Tick(25.0 * n, since + (until - since) * n / 4) for n in range(5)]


@dataclass(frozen=True, slots=True)
class Range:
    """Percentiles 50, 95 and 99 on one scale, in percent."""

    middle: float
    high: float
    top: float


def ranges(values: Sequence[Sequence[Any] | None]) -> list[Range | None]:
    """Of each three percentiles their places on a scale that holds them all."""
    most = max((float(each[2] or 0) for each in values if each), default=0) or 1
    return [
        None if not each else Range(*(100 * float(part or 0) / most for part in each))
        for each in values
    ]
