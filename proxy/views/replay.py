"""Replay view: one conversation as a person reads it.

Turns in order of time: what the user said, each round's thoughts, words and tool calls, what came
back, how long it took and what it cost, and how the turn ended and why. Long texts are cut unless
all is asked for; every line fits the width.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from proxy.log import escaped, json_line
from proxy.views.lines import count, dollars, duration
from proxy.views.results import answers, results_of

WIDTH = 100  # where no terminal says its own
LINES_MAX = 8  # of one text, unless all is asked for
INDENT = 13

Row = Mapping[str, Any]


def as_text(rows: Sequence[Row], width: int, *, is_full: bool = False) -> str:
    """The conversations that these rows (calls, and summaries of turns) make up, by project."""
    page = _Page(width, None if is_full else LINES_MAX)
    projects = dict.fromkeys(row["project_id"] for row in rows)
    conversations = ([row for row in rows if row["project_id"] == each] for each in projects)
    return "\n\n".join("\n".join(page.conversation(each)) for each in conversations)


class _Page:
    """How the parts are laid out."""

    def __init__(self, width: int, lines_max: int | None) -> None:
        self._width = max(40, width)
        self._lines_max = lines_max

    def conversation(self, rows: Sequence[Row]) -> Iterator[str]:
        calls = [row for row in rows if row["record_type"] == "llm_call"]
        summaries = {r["turn_id"]: r for r in rows if r["record_type"] == "turn_summary"}
        turns = list(dict.fromkeys(call["turn_id"] for call in calls if call["turn_id"]))
        yield self._head(calls, len(turns))
        shown: set[Any] = set()
        for call in calls:
            turn = call["turn_id"]
            if turn is None and call["id"] not in shown:
                yield ""
                yield from self._side(call)
            elif turn is not None and turn not in shown:
                members = [other for other in calls if other["turn_id"] == turn]
                asides = _amid(members, calls)
                shown |= {turn, *(aside["id"] for aside in asides)}
                yield ""
                number = turns.index(turn) + 1
                yield from self._turn(number, members, asides, summaries.get(turn))

    def _head(self, calls: Sequence[Row], turns: int) -> str:
        first = calls[0] if calls else {}
        project = f"  project {first['project_id']}" if first.get("project_id") else ""
        models = ", ".join(dict.fromkeys(str(call["model_used"]) for call in calls))
        size = f"{_counted(turns, 'turn')}, {_counted(len(calls), 'call')}"
        client = first.get("client") or ""
        return self._cut(f"session {first.get('session_id')}{project}  {size}  {client}  {models}")

    def _side(self, call: Row, indent: str = "") -> Iterator[str]:
        what = _link(call).get("evidence") or "not placed yet"
        yield self._cut(f"{indent}side call ({what})  {self._measures(call)}")
        yield from self._part("says", call["response_text"])

    def _turn(
        self, number: int, calls: Sequence[Row], asides: Sequence[Row], summary: Row | None
    ) -> Iterator[str]:
        yield self._cut(f"Turn {number}  {_clock(calls[0]['created_at'])}  {_ending(summary)}")
        if _link(calls[0]).get("kind") == "sub_agent":
            yield self._cut(f"  sub-agent of call {calls[0]['parent_id']}")
        yield from self._part("user", calls[0]["user_message"])
        left = list(asides)
        for position, call in enumerate(calls):
            while left and left[0]["created_at"] < call["created_at"]:
                yield from self._side(left.pop(0), "  ")
            yield self._cut(f"  round {call['round']}{_mark(call)}  {self._measures(call)}")
            yield from self._part("thinks", call["response_thoughts"])
            yield from self._part("says", call["response_text"])
            yield from self._tools(call, results_of(call, calls[position + 1 :], summary))
            if call["outcome"] != "complete":
                yield from self._part("failed", call["error"] or call["outcome"])

    def _tools(self, call: Row, results: Sequence[Row]) -> Iterator[str]:
        left = list(results)
        for tool in call["tool_calls"] or ():
            yield from self._part("calls", f"{tool.get('name')} {_json(tool.get('arguments'))}")
            result = next((result for result in left if answers(result, tool)), None)
            if result is not None:
                left.remove(result)
                took = duration(result.get("latency_ms"))
                output = result.get("output")
                text = "(not kept)" if output is None else str(output)
                shown = f"{text}  [{took}]" if took != "-" else text
                yield from self._part("error" if result.get("is_error") else "gets", shown)

    def _measures(self, call: Row) -> str:
        first = f" (first {duration(call['ttft_ms'])})" if call["ttft_ms"] is not None else ""
        tokens = f"{count(call['prompt_tokens'])}→{count(call['completion_tokens'])} tok"
        return f"{_clock(call['created_at'])}  {duration(call['duration_ms'])}{first}  {tokens}"

    def _part(self, name: str, text: Any) -> Iterator[str]:
        """A text beside its name, wrapped; what is cut says so."""
        if not text:
            return
        lines = self._wrapped(str(text))
        limit = self._lines_max or len(lines)
        for number, line in enumerate(lines[:limit]):
            yield f"    {name if number == 0 else '':<{INDENT - 4}}{line}"
        if len(lines) > limit:
            yield f"{'':<{INDENT}}… {len(lines) - limit} more lines"

    def _wrapped(self, text: str) -> list[str]:
        room = self._width - INDENT
        limit = None if self._lines_max is None else self._lines_max * room * 4
        found: list[str] = []
        for line in text[:limit].splitlines():
            found += textwrap.wrap(escaped(line), room) or [""]
        return found

    def _cut(self, text: str) -> str:
        shown = escaped(text.rstrip())
        return shown if len(shown) <= self._width else shown[: self._width - 1] + "…"


def _amid(members: Sequence[Row], calls: Sequence[Row]) -> list[Row]:
    """The side calls that were made in the middle of a turn."""
    ids = {call["id"] for call in members}
    last = members[-1]["created_at"]
    sides = (call for call in calls if call["turn_id"] is None and call["parent_id"] in ids)
    return [call for call in sides if call["created_at"] < last]


def _ending(summary: Row | None) -> str:
    if summary is None:
        return "goes on"
    cost = summary["cost_usd"]
    reason = str(summary["stop_reason"])
    kind = reason.split(":")[1] if ":" in reason else ""
    rule = str((summary["capture"] or {}).get("rule") or "").removeprefix(f"{kind} ")
    parts = [
        reason + (f" ({rule})" if rule else ""),
        f"{_counted(summary['rounds'], 'round')}, {_counted(summary['tool_call_count'], 'tool')}",
        f"{count(summary['prompt_tokens'])}/{count(summary['completion_tokens'])} tok",
        dollars(cost) if cost is not None else "",
        duration(summary["duration_ms"]),
    ]
    return "  ".join(part for part in parts if part)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _mark(call: Row) -> str:
    marks = {"retries": " (retry)", "forks": " (fork)", "compacted": " (compacted)"}
    return marks.get(str(_link(call).get("kind")), "")


def _link(call: Row) -> Mapping[str, Any]:
    found = (call["capture"] or {}).get("link")
    return found if isinstance(found, dict) else {}


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json_line(value)


def _clock(instant: datetime) -> str:
    return instant.astimezone().strftime("%H:%M:%S")
