"""Turns: how each one ended, from the facts of its calls.

Pure. The rules stand in order in `_RULES`; the first that applies says it. Most of them ask
whether the turn stopped without a final answer, which nobody can know before the next message of a
person has arrived or the turn has been idle; `AT_ONCE` names the endings that need not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from proxy.config import Turns
from proxy.injected import is_final_tool
from proxy.turn import CalledTool, End, Ending, Facts, ToolResult, Turn

AT_ONCE = ("completed", "empty_no_tools", "refused")
PING_PONG_ROUNDS = 6  # two calls alternating three times


def ending(turn: Turn, settings: Turns, now: datetime) -> Ending | None:
    """How the turn ended; None while it may still go on."""
    found = ending_if_over(turn, settings)
    is_over = turn.succeeded_at is not None or now >= idle_at(turn, settings)
    return found if is_over or found.stop_reason in AT_ONCE else None


def ending_if_over(turn: Turn, settings: Turns) -> Ending:
    """How the turn ended if nothing follows."""
    view = _View(turn, settings)
    return next(said for rule in _RULES if (said := rule(view)) is not None)


def idle_at(turn: Turn, settings: Turns) -> datetime:
    """When the turn counts as stopped if nothing follows."""
    return (turn.active_until or turn.last.ended_at) + timedelta(seconds=settings.idle_s)


def tool_call_count(turn: Turn) -> int:
    """All tool calls of the turn, the provider's own included; those of failed calls never ran."""
    return sum(len(call.calls) for call in _answered(turn))


@dataclass(frozen=True, slots=True)
class _Round:
    """An answered call of the turn, and what came back for the tools it called."""

    call: Facts
    results: tuple[ToolResult, ...]

    @property
    def tools(self) -> tuple[CalledTool, ...]:
        return self.call.open_tools

    @property
    def has_failed(self) -> bool:
        return bool(self.results) and all(result.is_error for result in self.results)


class _View:
    """A turn as the rules look at it."""

    def __init__(self, turn: Turn, settings: Turns) -> None:
        self.turn = turn
        self.settings = settings
        self.last = turn.last
        answered = _answered(turn)
        self.rounds = [
            _Round(call, _brought(turn, call, following))
            for call, following in zip(answered, [*answered[1:], None], strict=False)
        ]
        self.tool_rounds = [found for found in self.rounds if found.tools]

    @property
    def is_final(self) -> bool:
        """Whether the last answer is one: words, or handed in by a tool."""
        return self.last.end is End.TEXT or self._hands_in

    @property
    def _hands_in(self) -> bool:
        is_done = any(is_final_tool(tool.name) for tool in self.last.open_tools)
        return self.last.end is End.TOOLS and is_done

    @property
    def is_open(self) -> bool:
        """Whether the last answer called tools whose results never came."""
        return self.last.end is End.TOOLS and not self._hands_in


def _answered(turn: Turn) -> list[Facts]:
    return [call for call in turn.calls if call.end.is_answer]


def _brought(turn: Turn, call: Facts, following: Facts | None) -> tuple[ToolResult, ...]:
    """The results for the tools of one call: from the next request, answered or not."""
    later = [other for other in turn.calls if other.order > call.order]
    end = following.order if following else None
    found: dict[str | int, ToolResult] = {}
    for other in later:
        if end is None or other.order <= end:
            for number, result in enumerate(other.results):
                found.setdefault(result.id or number, result)
    return tuple(found.values()) if call.open_tools else ()


def _ended(reason: str, rule: str, *calls: Facts) -> Ending:
    return Ending(reason, rule, tuple(call.id for call in calls))


# --- the rules, in order ---


def _user_aborted(view: _View) -> Ending | None:
    if view.last.end is End.CUT:
        return _ended("user_aborted", "connection closed before the answer was whole", view.last)
    came_at = view.turn.succeeded_at
    if view.is_open and came_at is not None and came_at < idle_at(view.turn, view.settings):
        return _ended("user_aborted", "new message while tool calls were open", view.last)
    return None


def _completed(view: _View) -> Ending | None:
    return _ended("completed", "final answer", view.last) if view.is_final else None


def _loop_detected(view: _View) -> Ending | None:
    return _same_call(view) or _ping_pong(view) or _same_error(view) or _same_answer(view)


def _same_call(view: _View) -> Ending | None:
    run = _trailing(view.tool_rounds, lambda found: tuple(tool.same for tool in found.tools))
    if len(run) < view.settings.loop_repeats:
        return None
    return _loop("same_call", run[-1].tools[0].name, run)


def _ping_pong(view: _View) -> Ending | None:
    last = view.tool_rounds[-PING_PONG_ROUNDS:]
    calls = [tuple(tool.same for tool in found.tools) for found in last]
    is_alternating = (
        len(calls) == PING_PONG_ROUNDS
        and calls[0] != calls[1]
        and all(calls[n] == calls[n % 2] for n in range(PING_PONG_ROUNDS))
    )
    return _loop("ping_pong", last[-1].tools[0].name, last) if is_alternating else None


def _same_error(view: _View) -> Ending | None:
    came_back = [found for found in view.tool_rounds if found.results]

    def failed_as(found: _Round) -> object:
        if not found.has_failed:
            return found.call.id  # like no other round
        return found.tools[0].name, found.results[0].error

    run = _trailing(came_back, failed_as)
    if len(run) < view.settings.loop_repeats:
        return None
    return _loop("same_error", run[-1].tools[0].name, run)


def _same_answer(view: _View) -> Ending | None:
    if view.last.end is not End.EMPTY and not view.is_open:
        return None
    spoken = [found for found in view.rounds if not found.call.is_terse]
    run = _trailing(spoken, lambda found: found.call.said)
    is_loop = len(run) >= view.settings.loop_repeats and not run[-1].tools
    return _loop("same_answer", None, run) if is_loop else None


def _tool_failure(view: _View) -> Ending | None:
    came_back = [found for found in view.tool_rounds if found.results]
    needed = view.settings.failure_rounds if view.is_open else 1
    last = came_back[-needed:]
    if len(last) < needed or not all(found.has_failed for found in last):
        return None
    return _ended("tool_failure", "every result an error", *(found.call for found in last))


def _round_cap(view: _View) -> Ending | None:
    caps = [call.round_cap for call in view.turn.calls if call.round_cap]
    cap = caps[-1] if caps else view.settings.round_cap
    count = max(view.turn.rounds.values(), default=1)
    if cap is None or count < cap or not view.is_open:
        return None
    return _ended("round_cap", f"stopped at {cap} rounds", view.last)


def _silent_rounds(view: _View) -> Ending | None:
    if not view.is_open:
        return None
    run: list[Facts] = []
    for found in reversed(view.rounds):
        if not found.tools or not found.call.is_terse:
            break
        run.append(found.call)
    if len(run) < view.settings.silent_rounds:
        return None
    return _ended("silent_rounds", "tools called without a word", *reversed(run))


def _by_last_answer(view: _View) -> Ending | None:
    reason = {
        End.EMPTY: "empty_no_tools",
        End.FAILED: "upstream_error",
        End.LIMIT: "max_tokens",
        End.REFUSED: "refused",
        End.TOOLS: "abandoned",
    }.get(view.last.end)
    return _ended(reason, "last answer", view.last) if reason else None


_RULES: tuple[Callable[[_View], Ending | None], ...] = (
    _user_aborted,
    _completed,
    _loop_detected,
    _tool_failure,
    _round_cap,
    _silent_rounds,
    _by_last_answer,
)


def _trailing(rounds: Sequence[_Round], key: Callable[[_Round], object]) -> list[_Round]:
    """The rounds at the end that are alike."""
    run: list[_Round] = []
    for found in reversed(rounds):
        if run and key(found) != key(run[-1]):
            break
        run.append(found)
    return run[::-1]


def _loop(kind: str, tool: str | None, run: Sequence[_Round]) -> Ending:
    reason = f"loop_detected:{kind}:{tool}" if tool else f"loop_detected:{kind}"
    return _ended(reason, f"{kind} {len(run)} times", *(found.call for found in run))
