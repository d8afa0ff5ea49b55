"""Overview: the numbers of a span as the template shows them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from proxy.views.web.charts import named, ranges, stacked

Row = Mapping[str, Any]

INTERVALS_S = (10, 60, 300, 600, 1800, 3 * 3600, 12 * 3600, 86_400, 7 * 86_400)
COLUMNS_MAX = 60
ENDINGS_SHOWN = 40


def interval_of(span: timedelta) -> timedelta:
    """How long one column of a chart is, for a span of this length."""
    for seconds in INTERVALS_S:
        if span / timedelta(seconds=seconds) <= COLUMNS_MAX:
            return timedelta(seconds=seconds)
    return timedelta(seconds=INTERVALS_S[-1] * -(-span // timedelta(weeks=COLUMNS_MAX)))


def overview_context(
    *,
    models: Sequence[Row],
    times: Sequence[Row],
    endings: Sequence[Row],
    early: Sequence[Row],
    tools: Sequence[Row],
    milliseconds: Callable[[int | None], int | None],
    since: datetime,
    until: datetime,
    interval: timedelta,
) -> dict[str, Any]:
    """What the template shows. Times come as bins, of which `milliseconds` is the middle."""
    models = [
        {**row, **{name: _each(row[name], milliseconds) for name in ("took", "first")}}
        for row in models
    ]
    whole = next(row for row in models if row["model"] is None)
    rows = [row for row in models if row["model"] is not None]
    turns = sum(row["turns"] for row in endings)
    done = sum(row["turns"] for row in endings if row["stop_reason"] == "completed")
    tokens = [{**row, "tokens": row["prompt_tokens"] + row["completion_tokens"]} for row in times]
    names = named(tokens, "tokens")
    span = (since, until, interval)
    most = max((row["turns"] for row in endings), default=1)
    return {
        "whole": whole,
        "turns": turns,
        "done": done,
        "early_total": sum(row["early"] for row in endings),
        "early": early,
        "endings": [
            {**row, "width": 100 * row["turns"] / most, "duration_ms": milliseconds(row["took"])}
            for row in endings[:ENDINGS_SHOWN]
        ],
        "tools": tools,
        "models": [
            {**row, "took_range": took, "first_range": first}
            for row, took, first in zip(
                rows,
                ranges([row["took"] for row in rows]),
                ranges([row["first"] for row in rows]),
                strict=True,
            )
        ],
        "tokens": stacked(tokens, "tokens", names, *span),
        "cost": stacked(times, "cost_usd", names, *span),
        "cached": [
            {"name": name, **_sums([row for row in times if row["name"] == name])}
            for name in dict.fromkeys(row["name"] for row in times)
        ],
    }


def _each(
    bins: Sequence[int] | None, milliseconds: Callable[[int | None], int | None]
) -> list[int | None] | None:
    return None if bins is None else [milliseconds(bin) for bin in bins]


def _sums(rows: Sequence[Row]) -> dict[str, Any]:
    names = ("calls", "prompt_tokens", "completion_tokens", "cached_tokens", "cost_usd")
    return {name: sum(row[name] for row in rows) for name in names}
