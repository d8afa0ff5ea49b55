"""Reported: what orchestrators say of turns, laid over what was inferred. Pure.

A report applies to the turn that it names, else to the session's latest turn that began before
it, and where none had begun yet, to the first; sub-agents' turns have to be named. So it may come
before the calls, and what it applies to depends on times of arrival alone. What is reported wins, a
later report over an earlier one; what is not reported stays inferred.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from proxy.call import Json
from proxy.record import TelemetryRecord
from proxy.turn import Ending, Reported, Turn

OUTPUT_CHARS_MAX = 4096
RULE = "reported"
_COLUMNS = (
    *("user_message", "stop_reason", "rounds", "tool_call_count", "turn_intent", "chat_mode"),
    "tool_results",
)
_RESULT = ("id", "name", "round", "is_error", "output", "latency_ms")


def applied(
    turns: Iterable[Turn], sub_turns: frozenset[UUID], reports: Iterable[Reported]
) -> dict[UUID, list[Reported]]:
    """The reports on each turn, the earliest first."""
    known = list(turns)
    main: dict[UUID, list[Turn]] = defaultdict(list)
    for turn in sorted(known, key=lambda turn: turn.calls[0].order):
        if turn.id not in sub_turns:
            main[turn.conversation].append(turn)
    ids = {turn.id for turn in known}
    found: dict[UUID, list[Reported]] = defaultdict(list)
    for report in sorted(reports, key=lambda report: (report.at, report.id)):
        turn_id = report.turn if report.turn else _latest(main[report.conversation], report)
        if turn_id in ids:
            found[turn_id].append(report)
    return dict(found)


def _latest(turns: Sequence[Turn], report: Reported) -> UUID | None:
    begun = [turn for turn in turns if turn.calls[0].created_at <= report.at]
    wanted = begun[-1:] or turns[:1]
    return wanted[0].id if wanted else None


def reported_ending(turn: Turn, reports: Iterable[Reported]) -> Ending | None:
    """How the turn ended, if somebody said so: it counts as ended from then on."""
    reasons = [report.said["stop_reason"] for report in reports if "stop_reason" in report.said]
    return Ending(reasons[-1], RULE, (turn.last.id,)) if reasons else None


def with_reports(
    record: TelemetryRecord, inferred: Ending, reports: Sequence[Reported]
) -> TelemetryRecord:
    """The row of a turn with what was reported of it, and who said what."""
    said: dict[str, Any] = {}
    sources: dict[str, Json] = {}
    labels = dict(record.labels or {})
    for report in reports:
        for name, value in report.said.items():
            sources[name] = str(report.id)
            if name == "labels":
                labels |= value
            elif name in _COLUMNS:
                said[name] = _results(value) if name == "tool_results" else value
    capture: dict[str, Json] = {**(record.capture or {}), "reported": sources}
    if "stop_reason" in said:
        capture["inferred"] = {"stop_reason": inferred.stop_reason, "rule": inferred.rule}
    return replace(record, **said, labels=labels or None, capture=capture)


def _results(results: Iterable[Mapping[str, Any]]) -> list[Json]:
    """Results of tools in the form of the column, every member present."""
    return [
        {name: result.get(name) for name in _RESULT}
        | {"is_error": bool(result.get("is_error")), "output": _output(result.get("output"))}
        for result in results
    ]


def _output(output: Json) -> Json:
    if not isinstance(output, str) or len(output) <= OUTPUT_CHARS_MAX:
        return output
    return f"{output[:OUTPUT_CHARS_MAX]}… ({len(output) - OUTPUT_CHARS_MAX} more characters)"
