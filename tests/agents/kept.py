"""Kept: what frameworks sent, as compact scripts, and back as recorded exchanges.

One file per driver, one line per scenario. Of each request it holds key, number, times, headers
that matter and the body, in which every part that an earlier request of the file held already
(messages, tools, instructions) is replaced by `{"$same": n}`. Answers are not kept: they follow
from the scripts. What comes out has the form of the recorded agents (`tests/turns/recorded.py`).
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.agents.provider import PART, Sent, answer
from tests.agents.scenarios import scenarios as scripted
from tests.agents.script import Scenario, Turn, places
from tests.turns.recorded import Scenario as Recorded

FOLDER = Path(__file__).parent / "kept"
SHARED_CHARS_MIN = 60
HEADERS = ("user-agent", "content-type", "anthropic-version", "x-app")


def keep(agent: str, scenarios: Iterable[Scenario], sent: Sequence[Sent]) -> None:
    """Write what one driver sent."""
    pool = _Pool()
    lines = []
    for scenario in scenarios:
        requests = [each for each in sent if each.key in scenario.scripts()]
        begin = min(each.started_ms for each in requests)
        calls = [
            {
                "key": each.key,
                "number": each.number,
                "ms": [round(each.started_ms - begin, 1), round(each.ended_ms - begin, 1)],
                "path": each.path,
                "headers": {k: v for k, v in each.headers.items() if _is_kept(k)},
                "body": pool.shrunk(each.body),
            }
            for each in requests
        ]
        line = {"scenario": scenario.full_name, "calls": calls}
        lines.append(json.dumps(line, ensure_ascii=False, separators=(",", ":")))
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{agent}.jsonl").write_text("\n".join(lines) + "\n")


def _is_kept(header: str) -> bool:
    return header in HEADERS or header.startswith(("x-claude-code-", "x-codex-"))


class _Pool:
    """Parts of bodies that have been met, numbered in order."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._parts: list[Any] = []

    def shrunk(self, body: dict[str, Any]) -> dict[str, Any]:
        return _mapped(body, self._shrunk)

    def grown(self, body: dict[str, Any]) -> dict[str, Any]:
        """The inverse, in the same order."""
        return _mapped(body, self._grown)

    def _shrunk(self, part: Any) -> Any:
        text = json.dumps(part)
        if text in self._numbers:
            return {"$same": self._numbers[text]}
        if len(text) >= SHARED_CHARS_MIN:
            self._numbers[text] = len(self._numbers)
        return part

    def _grown(self, part: Any) -> Any:
        if isinstance(part, dict) and part.keys() == {"$same"}:
            return self._parts[part["$same"]]
        if len(json.dumps(part)) >= SHARED_CHARS_MIN:
            self._parts.append(part)
        return part


def _mapped(body: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {
        name: [change(item) for item in value] if isinstance(value, list) else change(value)
        for name, value in body.items()
    }


def recorded(scenarios: Iterable[Scenario] | None = None, *, is_bare: bool) -> list[Recorded]:
    """Kept scenarios, all or some, as recordings with their truth."""
    by_name = {scenario.full_name: scenario for scenario in scenarios or scripted()}
    return [
        _recorded(by_name[line["scenario"]], line["calls"], is_bare=is_bare)
        for path in sorted(FOLDER.glob("*.jsonl"))
        for line in _lines(path)
        if line["scenario"] in by_name
    ]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    pool = _Pool()
    for text in path.read_text().splitlines():
        line = json.loads(text)
        for call in line["calls"]:
            call["body"] = pool.grown(call["body"])
        yield line


def _recorded(scenario: Scenario, calls: Sequence[dict[str, Any]], *, is_bare: bool) -> Recorded:
    records = [_record(scenario, call, is_bare=is_bare) for call in calls]
    turns = [
        _truth(key, number, turn, records, scenario, is_bare=is_bare)
        for key, found in scenario.scripts().items()
        for number, turn in enumerate(found)
    ]
    sessions = scenario.sessions * scenario.twins
    if is_bare and scenario.sessions_bare is not None:
        sessions = scenario.sessions_bare
    return Recorded(scenario.full_name, records, turns, sessions, True)


def _record(scenario: Scenario, call: dict[str, Any], *, is_bare: bool) -> dict[str, Any]:
    key, number = call["key"], call["number"]
    place = list(places(key, scenario.scripts()[key]))[number]
    status, kind, pieces = answer(call["path"], call["body"], place.step, f"{key}/{number}")
    is_whole = not (place.step.is_cut or place.step.is_hung_up)
    body = b"".join(pieces if is_whole else pieces[:PART])
    headers = call["headers"] | ({} if is_bare else scenario.headers_of(key))
    return {
        "id": f"{key}/{number}",
        "sequence": scenario.full_name,
        "provider": "anthropic" if scenario.dialect == "messages" else "openai",
        "request": {
            "method": "POST",
            "path": call["path"],
            "headers": headers,
            "body_b64": b64encode(json.dumps(call["body"]).encode()).decode(),
        },
        "response": {
            "status": status,
            "headers": {"content-type": kind},
            "body_b64": b64encode(body).decode(),
        },
        "started_ms": call["ms"][0],
        "ended_ms": call["ms"][1],
        "client_closed_early": place.step.is_hung_up or place.step.is_left,
        "upstream_cut": place.step.is_cut,
        "truth": {"role": place.role, "turn": place.turn, "round": place.round},
    }


def _truth(
    key: str,
    number: int,
    turn: Turn,
    records: Sequence[dict[str, Any]],
    scenario: Scenario,
    *,
    is_bare: bool,
) -> dict[str, Any]:
    """What is true of one turn, in the form of the recorded coding agents."""
    name = f"{key}/{number + 1}"
    members = [
        record["id"]
        for record in records
        if record["truth"]["turn"] == name and record["truth"]["round"]
    ]
    answers = [step for step in turn.steps if step.is_answer and not step.side]
    return {
        "turn": name,
        "user": turn.user,
        "rounds": max(r["truth"]["round"] for r in records if r["id"] in members),
        "tool_calls": sum(len(step.tools) for step in answers),
        "stop_reason": (is_bare and turn.ends_bare) or turn.ends,
        "calls": members,
    }
