"""Rollup: rows added up by time, so that a chart of a year reads as little as one of an hour.

Ten minutes are added up from rows, hours from those, days (of UTC) from hours. Triggers note the
ten minutes in which a row came, went or changed (migration 0009); a step adds up again those that
are over, in one transaction with their hours and days. A reader sees in one snapshot what is noted,
and reads that from the rows: `cover` says what to read where. So what is read is always exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.store.connection import Connection

WIDTHS_S = (86_400, 3600, 600)  # each a multiple of the next; the last is added up from rows
BASE = timedelta(seconds=WIDTHS_S[-1])
ROWS = 0  # as a width: not added up
STEP_MAX = 48  # added up in one transaction
EPOCH, EVER = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_BINS = 16  # to a doubling, as agent_bin has them

# In the order of whoever empties the table, or changes its form: the table, then the sums.
_LOCK = "LOCK TABLE agent_telemetry IN ACCESS SHARE MODE"
STALE = "SELECT DISTINCT at FROM agent_rollup_stale"
_DUE = """
SELECT at FROM agent_rollup_stale WHERE at <= $1 GROUP BY at ORDER BY at DESC LIMIT $2
"""
# Before the rows are read, so that whoever commits meanwhile is noted again, and not forgotten.
_TAKE = "DELETE FROM agent_rollup_stale WHERE at = ANY($1)"
_COMPACT = """
WITH noted AS (DELETE FROM agent_rollup_stale WHERE at > $1 RETURNING at)
INSERT INTO agent_rollup_stale SELECT DISTINCT at FROM noted
"""
_FORGET = "DELETE FROM agent_rollup WHERE width_s = $1 AND at = ANY($2)"
_FROM_ROWS = """
INSERT INTO agent_rollup SELECT r.* FROM unnest($2::timestamptz[]) AS due (at)
CROSS JOIN LATERAL agent_rolled(due.at, due.at + make_interval(secs => $1::integer), $1::integer) r
"""
_KEY = "at, record_type, project_id, model_used, stop_reason"
_SUMS = (
    *("counted", "failed", "early", "prompt_tokens", "completion_tokens", "cached_tokens"),
    *("cost_usd", "rounds", "rounds_known", "tool_calls", "tool_calls_known"),
)
# The keys are never NULL, so a join by them loses nothing.
_FROM_PARTS = f"""
INSERT INTO agent_rollup (
    width_s, {_KEY}, {", ".join(_SUMS)}, took_bins, took_counts, first_bins, first_counts)
WITH parts AS MATERIALIZED (
    SELECT due.at AS begun, r.* FROM unnest($2::timestamptz[]) AS due (at)
    JOIN agent_rollup r ON r.width_s = $3::integer AND r.at >= due.at
        AND r.at < due.at + make_interval(secs => $1::integer)
), sums AS (
    SELECT begun AS {_KEY}, {", ".join(f"sum({name}) AS {name}" for name in _SUMS)}
    FROM parts GROUP BY begun, record_type, project_id, model_used, stop_reason
), bins AS (
    SELECT begun AS {_KEY}, of, bin, sum(n) AS n FROM parts CROSS JOIN LATERAL (
        SELECT 'took' AS of, bin, n FROM unnest(took_bins, took_counts) AS t (bin, n)
        UNION ALL SELECT 'first', bin, n FROM unnest(first_bins, first_counts) AS f (bin, n)
    ) b GROUP BY begun, record_type, project_id, model_used, stop_reason, of, bin
), times AS (
    SELECT {_KEY}, array_agg(bin) FILTER (WHERE of = 'took') AS took_bins,
        array_agg(n) FILTER (WHERE of = 'took') AS took_counts,
        array_agg(bin) FILTER (WHERE of = 'first') AS first_bins,
        array_agg(n) FILTER (WHERE of = 'first') AS first_counts
    FROM bins GROUP BY {_KEY}
)
SELECT $1::integer, {_KEY}, {", ".join(_SUMS)}, took_bins, took_counts, first_bins, first_counts
FROM sums LEFT JOIN times USING ({_KEY})
"""  # noqa: S608 - column names are this program's own
AGAIN = "SELECT agent_rollup_again($1)"  # everything since then


@dataclass(frozen=True, slots=True)
class Part:
    """A time to read from what was added up by this width, or from rows (width 0)."""

    width_s: int
    begin: datetime
    end: datetime


async def step(connection: Connection, now: datetime, most: int = STEP_MAX) -> int:
    """Add up the latest of what is noted and over; returns how many ten minutes that were.

    To be called inside of a transaction, by one at a time.
    """
    over = now - 2 * BASE
    await connection.execute(_LOCK)
    due = [row["at"] for row in await connection.fetch(_DUE, over, most)]
    if not due:
        await connection.execute(_COMPACT, over)
        return 0
    await connection.execute(_TAKE, due)
    finer = WIDTHS_S[-1]
    await connection.execute(_FORGET, finer, due)
    await connection.execute(_FROM_ROWS, finer, due)
    for width_s in WIDTHS_S[-2::-1]:
        wider = sorted({_floor(at, width_s) for at in due})
        await connection.execute(_FORGET, width_s, wider)
        await connection.execute(_FROM_PARTS, width_s, wider, finer)
        finer = width_s
    return len(due)


def cover(
    since: datetime, now: datetime, stale: Iterable[datetime], widths_s: Sequence[int] = WIDTHS_S
) -> list[Part]:
    """What to read, and where, so that all rows since then count once; pure.

    `stale` are the ten minutes that must come from rows; `widths_s` some of the widths, the widest
    first.
    """
    since = max(since, EPOCH)
    begin, end = _floor(since - timedelta(microseconds=1), WIDTHS_S[-1]) + BASE, _floor(now, 600)
    if begin >= end:
        return [Part(ROWS, since, EVER)]
    parts: list[Part] = []
    _add(parts, ROWS, since, begin)
    _descend(parts, begin, end, sorted(stale), widths_s)
    _add(parts, ROWS, end, EVER)
    return parts


def places(parts: Sequence[Part]) -> tuple[list[Any], ...]:
    """Parts as the queries take them: widths, beginnings, ends."""
    return (
        [part.width_s for part in parts],
        [part.begin for part in parts],
        [part.end for part in parts],
    )


def milliseconds(bin: int | None) -> int | None:
    """The middle of a bin of `agent_bin`: within 2.2 % of all that it holds."""
    return bin if bin is None else 0 if bin < 0 else round(2 ** ((bin + 0.5) / _BINS))


def _descend(
    parts: list[Part],
    begin: datetime,
    end: datetime,
    stale: Sequence[datetime],
    widths_s: Sequence[int],
) -> None:
    """Add what covers this time: the widest there are, where nothing in them is stale."""
    if begin >= end:
        return
    if not widths_s:
        _add(parts, ROWS, begin, end)
        return
    width_s, finer = widths_s[0], widths_s[1:]
    width = timedelta(seconds=width_s)
    first, last = _floor(begin + width - timedelta(microseconds=1), width_s), _floor(end, width_s)
    if first >= last:
        _descend(parts, begin, end, stale, finer)
        return
    _descend(parts, begin, first, stale, finer)
    inside: dict[datetime, list[datetime]] = {}
    for at in stale:
        inside.setdefault(_floor(at, width_s), []).append(at)
    for block in sorted(block for block in inside if first <= block < last):
        _add(parts, width_s, first, block)
        _descend(parts, block, block + width, inside[block], finer)
        first = block + width
    _add(parts, width_s, first, last)
    _descend(parts, last, end, stale, finer)


def _add(parts: list[Part], width_s: int, begin: datetime, end: datetime) -> None:
    if begin >= end:
        return
    if parts and parts[-1].width_s == width_s and parts[-1].end == begin:
        begin = parts.pop().begin
    parts.append(Part(width_s, begin, end))


def _floor(instant: datetime, width_s: int) -> datetime:
    return instant - (instant - EPOCH) % timedelta(seconds=width_s)
