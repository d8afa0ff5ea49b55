"""Spans of a turn, as values. Pure: no SDK, no clock, no connection.

Ids follow from the ids of rows, so that what is sent twice is the same span twice:

    trace    of a turn   the traceparent of its first call, else the turn's id
             of a call that belongs to no turn   its traceparent, else its own id
    span     `chat`          the last 16 hex digits of the row's id
             `invoke_agent`  the last 16 hex digits of the turn_summary row's id
             `execute_tool`  the last 16 hex digits of UUIDv5(turn, "tool ROUND NUMBER")

A turn is one `invoke_agent` span; its calls and the tools that the agent ran are children of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID, uuid5

from proxy.genai import TRACEPARENT
from proxy.otel import attributes
from proxy.otel.attributes import Row, Value

Kind = Literal["client", "internal"]

_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Context:
    """Where a span is: the ids of its trace and of itself, and whether it is sampled."""

    trace: int
    span: int
    is_sampled: bool = True


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Instants are aware; `error` is set where it ended badly."""

    name: str
    kind: Kind
    context: Context
    parent: Context | None
    started_at: datetime
    ended_at: datetime
    attributes: Mapping[str, Value]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """An ended turn: its summary's row, the rows of its calls in order, and what it is part of."""

    summary: Row
    calls: Sequence[Row]
    parent: Context | None = None  # of the turn that it is a sub-agent of

    @property
    def context(self) -> Context:
        """Where the turn's own span is."""
        outer = self.parent or traceparent_of(self.calls[0])
        trace = outer.trace if outer else _trace(self.summary["turn_id"])
        is_sampled = outer.is_sampled if outer else True
        return Context(trace, turn_span(self.summary["turn_id"]), is_sampled)


def turn_span(turn: UUID) -> int:
    """The id of a turn's own span."""
    return _span(uuid5(turn, "turn_summary"))


def traceparent_of(call: Row) -> Context | None:
    """Where the agent says it is, by the W3C header it sent; None where it sent none that holds."""
    text = (call["capture"] or {}).get("traceparent")
    found = TRACEPARENT.fullmatch(text) if isinstance(text, str) else None
    if found is None or found[1] == "0" * 32 or found[2] == "0" * 16:
        return None
    return Context(int(found[1], 16), int(found[2], 16), bool(int(found[3], 16) & 1))


def of_turn(turn: Turn, *, with_content: bool) -> Iterator[Span]:
    """The spans of an ended turn, its own first."""
    own = turn.context
    outer = turn.parent or traceparent_of(turn.calls[0])
    summary = turn.summary
    duration = summary["duration_ms"] * _MILLISECOND
    yield Span(
        name=" ".join(filter(None, ("invoke_agent", attributes.agent_name(summary)))),
        kind="internal",
        context=own,
        parent=outer,
        started_at=summary["created_at"] - duration,
        ended_at=summary["created_at"],
        attributes=attributes.of_turn(summary, turn.calls, with_content=with_content),
        error=attributes.turn_error(summary),
    )
    for call in turn.calls:
        yield _of_call(call, own, with_content=with_content)
    yield from _tools(turn, own, with_content=with_content)


def of_side_call(call: Row, *, with_content: bool) -> Span:
    """The span of a call that belongs to no turn."""
    return _of_call(call, traceparent_of(call), with_content=with_content)


def _of_call(call: Row, parent: Context | None, *, with_content: bool) -> Span:
    trace = parent.trace if parent else _trace(call["id"])
    is_sampled = parent.is_sampled if parent else True
    return Span(
        name=attributes.call_name(call),
        kind="client",
        context=Context(trace, _span(call["id"]), is_sampled),
        parent=parent,
        started_at=call["created_at"],
        ended_at=_ended_at(call),
        attributes=attributes.of_call(call, with_content=with_content),
        error=attributes.call_error(call),
    )


def _tools(turn: Turn, parent: Context, *, with_content: bool) -> Iterator[Span]:
    """A span for each result that came back, from the end of the answer that asked for it."""
    asked = {call["round"]: call for call in turn.calls if call["outcome"] == "complete"}
    given = {tool["id"]: tool for tool in turn.summary["tool_calls"] or () if tool.get("id")}
    for number, result in enumerate(turn.summary["tool_results"] or ()):
        call = asked.get(result["round"])
        if call is None:
            continue
        id = uuid5(turn.summary["turn_id"], f"tool {result['round']} {number}")
        started_at = _ended_at(call)
        tool = given.get(result["id"], {})
        yield Span(
            name=f"execute_tool {result['name'] or 'unknown'}",
            kind="internal",
            context=Context(parent.trace, _span(id), parent.is_sampled),
            parent=parent,
            started_at=started_at,
            ended_at=started_at + (result["latency_ms"] or 0) * _MILLISECOND,
            attributes=attributes.of_tool(result, tool, turn.summary, with_content=with_content),
            error="tool_error" if result["is_error"] else None,
        )


def _ended_at(call: Row) -> datetime:
    ended_at: datetime = call["created_at"] + call["duration_ms"] * _MILLISECOND
    return ended_at


def _trace(id: UUID) -> int:
    return id.int


def _span(id: UUID) -> int:
    return id.int & (1 << 64) - 1 or 1
