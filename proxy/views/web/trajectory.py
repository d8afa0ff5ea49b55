"""Trajectory: one conversation as turns and rounds. Pure and total over whatever the rows hold.

Each round shows what is new in its prompt against the call that it goes on from; what went wrong is
listed with the place to jump to. Sub-agents stand below the round that called them, side calls
(titles, summaries) below the call that they belong to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from proxy.views.results import answers, results_of
from proxy.views.web.text import Message, Text, cut, is_echo, message_of, without_marks

LINES_MAX = 400  # of a difference between instructions
TOOLS_SHOWN_MAX = 200
MESSAGE_CHARS = 3000  # of a new message; what tools gave stands beside their calls anyway
MARKS = {"retries": "retry", "forks": "fork", "compacted": "after compaction"}

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    output: Text | None  # None: not kept
    is_error: bool
    latency_ms: int | None


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    arguments: Text
    is_server: bool
    result: Result | None


@dataclass(frozen=True, slots=True)
class Change:
    """Instructions or tools: whole where nothing was before, else the lines that differ."""

    whole: Text | None = None
    added: Text | None = None
    removed: Text | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is new in the prompt of a call."""

    messages: int
    same: int  # of them, as in the call before
    added: tuple[Message, ...]
    not_shown: int
    dropped: int  # messages of the call before that are gone or were replaced
    system: Change | None
    tools: Change | None
    tool_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """Where a call lies in its turn, in percent of it."""

    begin: float
    first: float | None  # to the first content
    length: float


@dataclass(slots=True)
class Round:
    row: Row
    mark: str | None
    is_sub_agent: bool
    text: Text
    thoughts: Text
    tools: list[Tool]
    prompt: Prompt | None
    bar: Bar | None = None
    turns: list[Turn] = field(default_factory=list)  # of sub-agents that it called
    sides: list[Round] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return f"call-{self.row['id']}"

    @property
    def evidence(self) -> str:
        """What its place rests on."""
        return str(_link(self.row).get("evidence") or "")

    @property
    def is_whole(self) -> bool:
        return bool(self.row["outcome"] == "complete")


@dataclass(slots=True)
class Turn:
    id: Any
    number: int
    said: Text
    rounds: list[Round]
    summary: Row | None
    is_sub_agent: bool
    sides: list[Round] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return f"turn-{self.id}"

    @property
    def is_good(self) -> bool:
        return self.summary is not None and self.summary["stop_reason"] == "completed"

    @property
    def rule(self) -> str | None:
        found = _dict(self.summary["capture"]).get("rule") if self.summary else None
        return None if found is None else str(found)


@dataclass(frozen=True, slots=True)
class Problem:
    anchor: str
    text: str
    is_ending: bool = False


@dataclass(frozen=True, slots=True)
class Trajectory:
    turns: list[Turn]  # sub-agents whose caller is not on the page are among them
    loose: list[Round]  # side calls without a call to stand below
    problems: list[Problem]
    first: Prompt | None


def trajectory(
    calls: Sequence[Row], summaries: Sequence[Row], prompts: Sequence[Row], *, is_begin: bool = True
) -> Trajectory:
    """Calls in order of time, the turns that ended, and what is new in each prompt.

    Turns are numbered where the calls are those from the beginning on.
    """
    ended = {row["turn_id"]: row for row in summaries}
    said = {row["id"]: row["response_text"] for row in calls}
    new = {row["id"]: _prompt(row, said.get(row["previous"])) for row in prompts}
    subs = {_link(row).get("thread") for row in calls if _link(row).get("kind") == "sub_agent"}
    rounds: dict[Any, Round] = {}
    turns: dict[Any, Turn] = {}
    sides: list[Round] = []
    for position, row in enumerate(calls):
        turn = row["turn_id"]
        later = [other for other in calls[position + 1 :] if other["turn_id"] == turn]
        shown = _round(row, later, ended.get(turn), new.get(row["id"]), subs)
        rounds[row["id"]] = shown
        if turn is None:
            sides.append(shown)
        elif turn in turns:
            turns[turn].rounds.append(shown)
        else:
            turns[turn] = _turn(shown, ended.get(turn))
    top = list(_nested(turns.values(), rounds))
    for number, turn in enumerate((t for t in top if not t.is_sub_agent), 1):
        turn.number = number if is_begin else 0
    loose = [side for side in sides if not _placed(side, rounds)]
    for turn in turns.values():
        _set_bars(turn)
    problems = [problem for turn in top for problem in _problems(turn)]
    return Trajectory(top, loose, problems, next(iter(new.values()), None))


def _turn(first: Round, summary: Row | None) -> Turn:
    row = first.row
    said = cut(row["user_message"], row.get("user_message_chars"))
    is_sub_agent = _link(row).get("kind") == "sub_agent"
    return Turn(row["turn_id"], 0, said, [first], summary, is_sub_agent)


def _nested(turns: Any, rounds: Mapping[Any, Round]) -> Iterator[Turn]:
    """The turns of the conversation itself; those of sub-agents are put below their callers."""
    by_id = {str(id): shown for id, shown in rounds.items()}
    for turn in turns:
        caller = by_id.get(str(_link(turn.rounds[0].row).get("parent")))
        if turn.is_sub_agent and caller is not None and caller not in turn.rounds:
            caller.turns.append(turn)
        else:
            yield turn


def _placed(side: Round, rounds: Mapping[Any, Round]) -> bool:
    parent = str(_link(side.row).get("parent"))
    found = next((r for id, r in rounds.items() if str(id) == parent and r is not side), None)
    if found is not None:
        found.sides.append(side)
    return found is not None


def _round(
    row: Row, later: Sequence[Row], summary: Row | None, prompt: Prompt | None, subs: set[Any]
) -> Round:
    link = _link(row)
    is_sub = link.get("thread") in subs and link.get("thread") is not None
    return Round(
        row=row,
        mark=MARKS.get(str(link.get("kind"))),
        is_sub_agent=is_sub,
        text=cut(row["response_text"], row.get("response_text_chars")),
        thoughts=cut(row["response_thoughts"], row.get("response_thoughts_chars")),
        tools=_tools(row, results_of(row, later, summary)),
        prompt=prompt,
    )


def _tools(row: Row, results: Sequence[Row]) -> list[Tool]:
    left = list(results)
    found = []
    for call in _list(row["tool_calls"])[:TOOLS_SHOWN_MAX]:
        tool = call if isinstance(call, dict) else {"name": None, "arguments": call}
        result = next((each for each in left if answers(each, tool)), None)
        if result is not None:
            left.remove(result)
        name, is_server = str(tool.get("name") or "?"), bool(tool.get("server"))
        found.append(Tool(name, cut(tool.get("arguments")), is_server, _result(result)))
    return found


def _result(result: Mapping[str, Any] | None) -> Result | None:
    if result is None:
        return None
    output, took = result.get("output"), result.get("latency_ms")
    shown = None if output is None else cut(output)
    return Result(shown, bool(result.get("is_error")), took if isinstance(took, int) else None)


def _prompt(row: Row, said: Any) -> Prompt:
    added, removed = list(row["added"] or ()), list(row["removed"] or ())
    same = row["same"]
    alike = 0
    for one, other in zip(added, removed, strict=False):
        if without_marks(one) != without_marks(other):
            break
        alike += 1
    total_before = row["messages_before"] or 0
    shown = tuple(message_of(message, MESSAGE_CHARS) for message in added[alike:])
    return Prompt(
        messages=row["messages"],
        same=same + alike,
        added=_with_echo(shown, said) if row["previous"] is not None else shown,
        not_shown=row["messages"] - same - len(added),
        dropped=max(0, total_before - same - alike),
        system=_change(row["system_prompt"], row["system_before"], row["previous"] is None),
        tools=_change(row["tools"], row["tools_before"], row["previous"] is None),
        tool_names=tuple(_tool_names(row["tools"])),
    )


def _with_echo(messages: tuple[Message, ...], said: Any) -> tuple[Message, ...]:
    """Mark what the call before has answered, which stands at the beginning."""
    count = next((n for n, each in enumerate(messages) if not is_echo(each, said)), len(messages))
    return (*(replace(each, is_echo=True) for each in messages[:count]), *messages[count:])


def _change(now: Any, before: Any, is_first: bool) -> Change | None:
    """How a text differs from what it was, line by line, in whatever order the lines stand."""
    if now in (None, "") and before in (None, ""):
        return None
    if is_first or before in (None, ""):
        return Change(whole=cut(now, limit=40_000))
    lines, lines_before = (cut(each, limit=200_000).shown.splitlines() for each in (now, before))
    added = _difference(lines, lines_before)
    removed = _difference(lines_before, lines)
    return Change(added=cut(added, limit=20_000), removed=cut(removed, limit=20_000))


def _difference(lines: Sequence[str], others: Sequence[str]) -> str:
    left = Counter(others)
    found = []
    for line in lines:
        if left[line] > 0:
            left[line] -= 1
        elif line.strip():
            found.append(line)
    return "\n".join(found[:LINES_MAX])


def _tool_names(tools: Any) -> Iterator[str]:
    """The names of offered tools in any dialect."""
    for tool in _list(tools)[:TOOLS_SHOWN_MAX]:
        if not isinstance(tool, dict):
            continue
        declared = tool.get("functionDeclarations")
        if isinstance(declared, list):
            yield from _tool_names(declared)
            continue
        inner = tool.get("function") or tool.get("toolSpec") or tool
        name = inner.get("name") if isinstance(inner, dict) else None
        yield str(name or tool.get("type") or "?")[:80]


def _set_bars(turn: Turn) -> None:
    """Lay the calls out in the time that the turn took."""
    begin = min(shown.row["created_at"] for shown in turn.rounds)
    ends = (s.row["created_at"] + timedelta(milliseconds=s.row["duration_ms"]) for s in turn.rounds)
    total_ms = max(1.0, (max(ends) - begin) / timedelta(milliseconds=1))
    for shown in turn.rounds:
        row = shown.row
        offset = (row["created_at"] - begin) / timedelta(milliseconds=1)
        ttft = row["ttft_ms"]
        first = None if ttft is None else 100 * min(ttft, row["duration_ms"]) / total_ms
        shown.bar = Bar(100 * offset / total_ms, first, 100 * row["duration_ms"] / total_ms)


def _problems(turn: Turn) -> Iterator[Problem]:
    """What went wrong, in order of time, a turn's ending last."""
    for shown in turn.rounds:
        where = f"round {shown.row['round']}"
        if not shown.is_whole:
            yield Problem(shown.anchor, f"{where}: {shown.row['outcome']}")
        for tool in shown.tools:
            if tool.result is not None and tool.result.is_error:
                yield Problem(shown.anchor, f"{where}: {tool.name[:40]} failed")
        for below in shown.turns:
            yield from _problems(below)
    if turn.summary is not None and not turn.is_good:
        who = "sub-agent" if turn.is_sub_agent else f"turn {turn.number or ''}".strip()
        yield Problem(_decisive(turn), f"{who} ended {turn.summary['stop_reason']}", is_ending=True)


def _decisive(turn: Turn) -> str:
    """The last call that the ending rests on, else the turn."""
    capture = _dict(turn.summary["capture"] if turn.summary else None)
    evidence = [str(id) for id in _list(capture.get("evidence"))]
    found = [shown for shown in turn.rounds if str(shown.row["id"]) in evidence]
    return found[-1].anchor if found else turn.anchor


def _link(row: Row) -> Mapping[str, Any]:
    return _dict(_dict(row["capture"]).get("link"))


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
