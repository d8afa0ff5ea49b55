"""Summary: the row that says how a turn ended. Pure.

Made from the facts of the turn's calls, from what linking judged, and from what their rows and
links hold; made anew whenever the turn goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from proxy.call import Json
from proxy.enrich.turns import tool_call_count
from proxy.record import TelemetryRecord
from proxy.turn import RULES_VERSION, Ending, Facts, Turn

RESULTS_MAX = 1000

Content = Mapping[UUID, Mapping[str, Any]]
"""Columns of the turn's rows by id, and the `outputs` of their links."""


def with_successor(turn: Turn) -> tuple[Facts, ...]:
    """The calls that a summary is made of: the turn's, and the one that may bring its last results
    together with a new message."""
    return (*turn.calls, turn.successor) if turn.successor else turn.calls


def summary(turn: Turn, ending: Ending, content: Content) -> TelemetryRecord:
    """The `turn_summary` row of an ended turn."""
    rows = [content[call.id] for call in turn.calls if call.id in content]
    first, last = (rows[0], rows[-1]) if rows else ({}, {})
    ended_at = max(call.ended_at for call in turn.calls)
    count = tool_call_count(turn)
    return TelemetryRecord(
        id=turn.summary_id,
        created_at=ended_at + timedelta(microseconds=1),
        record_type="turn_summary",
        project_id=first.get("project_id"),
        session_id=turn.session,
        user_message=first.get("user_message"),
        model_used=last.get("model_used") or "unknown",
        response_text=last.get("response_text"),
        tool_calls=_tool_calls(turn, content) or None,
        tool_results=_tool_results(turn, content) or None,
        stop_reason=_bounded(ending.stop_reason),
        rounds=max(turn.rounds.values(), default=1),
        tool_call_count=count,
        turn_intent=_last(rows, "turn_intent") or ("action" if count else "conversational"),
        chat_mode=_last(rows, "chat_mode"),
        prompt_tokens=_sum(rows, "prompt_tokens"),
        completion_tokens=_sum(rows, "completion_tokens"),
        total_tokens=_sum(rows, "total_tokens"),
        cached_tokens=_sum(rows, "cached_tokens"),
        cache_write_tokens=_sum(rows, "cache_write_tokens"),
        reasoning_tokens=_sum(rows, "reasoning_tokens"),
        cost_usd=_cost(rows),
        duration_ms=round((ended_at - turn.calls[0].created_at) / timedelta(milliseconds=1)),
        turn_id=turn.id,
        provider=last.get("provider"),
        client=last.get("client"),
        labels=_labels(rows),
        capture=_evidence(turn, ending),
    )


def _evidence(turn: Turn, ending: Ending) -> dict[str, Json]:
    found: dict[str, Json] = {
        "rule": ending.rule,
        "evidence": [str(id) for id in ending.calls],
        "version": RULES_VERSION,
        "calls": len(turn.calls),
    }
    attempts = len(turn.calls) - len(set(turn.rounds.values()))
    return found | ({"retries": attempts} if attempts > 0 else {})


def _tool_calls(turn: Turn, content: Content) -> list[Json]:
    found: list[Json] = []
    for call in turn.calls:
        if call.end.is_answer:
            for tool in content.get(call.id, {}).get("tool_calls") or ():
                found.append({**tool, "round": turn.rounds[call.id]})
    return found


def _tool_results(turn: Turn, content: Content) -> list[Json]:
    """Each result once, with the round that called the tool and the time it took to come back.

    A retry brings the same results again, and ids may begin anew in each answer: a result is
    known by the call that asked for it, and its id or else its place.
    """
    askers: dict[str, Facts] = {}
    names: dict[str | None, str] = {}
    found: dict[tuple[UUID, str | int], Json] = {}
    before: Facts | None = None
    for call in with_successor(turn):
        row = content.get(call.id, {})
        for number, output in enumerate(row.get("outputs") or ()):
            is_ours = call is not turn.successor or not output["id"]
            asker = askers.get(output["id"], before if is_ours else None)
            if asker is not None and len(found) < RESULTS_MAX:
                name = names.get(output["id"]) or output["name"] or _only_name(asker)
                result = _tool_result(output, name, asker, call, turn)
                found.setdefault((asker.id, output["id"] or number), result)
        tools = {tool["id"]: tool for tool in row.get("tool_calls") or () if tool.get("id")}
        names |= {id: str(tool.get("name")) for id, tool in tools.items()}
        if call.end.is_answer:
            askers |= dict.fromkeys(tools, call)
            before = call if call.open_tools or before is None or not before.open_tools else before
    return list(found.values())


def _only_name(call: Facts) -> str | None:
    tools = call.open_tools
    return tools[0].name if len(tools) == 1 else None


def _tool_result(
    output: Mapping[str, Any], name: str | None, before: Facts, call: Facts, turn: Turn
) -> Json:
    waited = (call.created_at - before.ended_at) / timedelta(milliseconds=1)
    return {
        "id": output["id"],
        "name": name,
        "round": turn.rounds[before.id],
        "is_error": output["is_error"],
        "output": output["output"],
        "latency_ms": max(0, round(waited)),
    }


def _bounded(reason: str) -> str:
    """A tool's name in a reason takes 64 characters at most."""
    rule, _, rest = reason.partition(":")
    kind, _, tool = rest.partition(":")
    return ":".join(part for part in (rule, kind, tool[:64]) if part)


def _last(rows: Sequence[Mapping[str, Any]], column: str) -> Any:
    """What was said last."""
    return next((row[column] for row in reversed(rows) if row.get(column)), None)


def _sum(rows: Sequence[Mapping[str, Any]], column: str) -> int | None:
    known = [row[column] for row in rows if row.get(column) is not None]
    return sum(known) if known else None


def _cost(rows: Sequence[Mapping[str, Any]]) -> Decimal | None:
    known = [row["cost_usd"] for row in rows if row.get("cost_usd") is not None]
    return sum(known, Decimal(0)) if known else None


def _labels(rows: Sequence[Mapping[str, Any]]) -> dict[str, Json] | None:
    """The labels of all calls; where two differ, the later one."""
    found: dict[str, Json] = {}
    for row in rows:
        found |= row.get("labels") or {}
    return found or None
