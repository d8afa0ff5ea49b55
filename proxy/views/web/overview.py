"""Overview: the numbers of a span as the template shows them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.views.web.charts import named, ranges, stacked

Row = Mapping[str, Any]

INTERVALS_S = (10, 60, 300, 1800, 3 * 3600, 12 * 3600, 86_400, 7 * 86_400)
COLUMNS_MAX = 60


def interval_of(span: timedelta) -> timedelta:
    """How long one column of a chart is, for a span of this length."""
    for seconds in INTERVALS_S:
        if span / timedelta(seconds=seconds) <= COLUMNS_MAX:
            return timedelta(seconds=seconds)
    return timedelta(seconds=INTERVALS_S[-1] * -(-span // timedelta(weeks=COLUMNS_MAX)))


def overview_context(
    *,
    calls: Row,
    endings: Sequence[Row],
    early: Sequence[Row],
    tools: Sequence[Row],
    since: datetime,
    until: datetime,
    interval: timedelta,
) -> dict[str, Any]:
    """What the template shows. `calls` are the two lists of `queries/overview_calls.sql`."""
    models = calls["models"]
    times = [{**row, "at": datetime.fromtimestamp(row["at"], UTC)} for row in calls["times"]]
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
        "early_total": early[0]["total"] if early else 0,
        "early": early,
        "endings": [{**row, "width": 100 * row["turns"] / most} for row in endings],
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


def _sums(rows: Sequence[Row]) -> dict[str, Any]:
    names = ("calls", "prompt_tokens", "completion_tokens", "cached_tokens", "cost_usd")
    return {name: sum(row[name] for row in rows) for name in names}
