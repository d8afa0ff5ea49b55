"""Recorded coding agents with their true turns: read, judged, and compared with what was judged.

The recordings lie in `../shared/corpus/agents` beside the repository; `bench/agents.py` replays
them through a gateway. `is_bare` drops every header that names a session, turn or agent.
"""

from __future__ import annotations

import gzip
import json
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from proxy.assemble import Assembler
from proxy.config import Turns
from proxy.endpoints import classify
from proxy.enrich.threads import place, turns_of
from proxy.enrich.turns import ending, tool_call_count
from proxy.environment import load
from proxy.exchange import AnswerHead, End, Exchange, Outcome, Piece, Start
from proxy.labels import OWN_PREFIX
from proxy.turn import Kind
from proxy.wire.fields import from_raw
from proxy.wire.headers import labels_of
from tests.turns.scripts import DIGESTS

FOLDER = Path(__file__).parents[3] / "shared/corpus/agents"
HAS_RECORDINGS = FOLDER.is_dir()
LATER = datetime(2100, 1, 1, tzinfo=UTC)
BEGIN_NS = 1_780_000_000 * 10**9
APART_NS = 3600 * 10**9  # between two scenarios


@dataclass(frozen=True)
class Scenario:
    """One scripted run of an agent: what was recorded of it, and what is true of it."""

    name: str
    records: list[dict[str, Any]]
    turns: list[dict[str, Any]]
    sessions: int
    is_complete: bool


@cache
def scenarios() -> list[Scenario]:
    """All scenarios that hold a model call."""
    records: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with gzip.open(FOLDER / "agents.jsonl.gz") as lines:
        for line in lines:
            record = json.loads(line)
            if endpoint_of(record) is not None and record["truth"]["role"] != "other":
                records[record["sequence"]].append(record)
    found = json.loads((FOLDER / "scenarios.json").read_text())["scenarios"]
    return [
        Scenario(
            name,
            records[name],
            each["turns"],
            2 if "fork" in name else 1,  # forking a session gives the copy a name of its own
            not each.get("sequence_incomplete"),
        )
        for each in found
        if (name := f"{each['agent']}/{each['scenario']}") in records
    ]


def endpoint_of(record: Mapping[str, Any]) -> Any:
    request = record["request"]
    return classify(request["method"], request["path"].partition("?")[0])


def headers_of(record: Mapping[str, Any], *, is_bare: bool) -> list[tuple[str, str]]:
    """The headers of the request, lower case."""
    found = [(name.lower(), value) for name, value in record["request"]["headers"].items()]
    kept = ("user-agent", "content-type", "anthropic-version")
    return [(name, value) for name, value in found if not is_bare or name in kept]


def call_id(record: Mapping[str, Any]) -> UUID:
    return uuid5(NAMESPACE_OID, record["id"])


def exchange_of(record: Mapping[str, Any], number: int, *, is_bare: bool) -> Exchange:
    """The exchange as the spool would hold it, in the hour of its scenario."""
    endpoint, request, response = endpoint_of(record), record["request"], record["response"]
    body = b64decode(response["body_b64"] or "")
    headers = tuple(headers_of(record, is_bare=is_bare))
    fields = from_raw([(name.encode(), value.encode()) for name, value in headers])
    return Exchange(
        Start(
            id=call_id(record),
            at_ns=BEGIN_NS + number * APART_NS + int(record["started_ms"] * 1e6),
            upstream=record["provider"],
            dialect=endpoint.dialect,
            endpoint=endpoint.name,
            method=request["method"],
            target=request["path"],
            headers=tuple(pair for pair in headers if not pair[0].startswith(OWN_PREFIX)),
            labels=labels_of(fields, None, None, ()),
        ),
        b64decode(request["body_b64"] or ""),
        AnswerHead(
            0, response["status"], tuple((k.lower(), v) for k, v in response["headers"].items())
        ),
        (Piece(0, body),) if body else (),
        End(int((record["ended_ms"] - record["started_ms"]) * 1000), outcome_of(record)),
    )


def outcome_of(record: Mapping[str, Any]) -> Outcome:
    if record["client_closed_early"]:
        return Outcome.CLIENT_DISCONNECTED
    return Outcome.UPSTREAM_RESET if record["upstream_cut"] else Outcome.COMPLETE


@dataclass(frozen=True)
class Judged:
    """What a program made of one recorded call."""

    session: str
    kind: str
    turn: UUID | None
    round: int | None


@dataclass(frozen=True)
class JudgedTurn:
    """What a program made of one turn."""

    stop_reason: str
    rounds: int
    tool_call_count: int
    is_sub_agent: bool = False


@dataclass
class Comparison:
    """How much of the truth was found, by what was compared; misses, and how turns ended."""

    found: Counter[tuple[str, bool]] = field(default_factory=Counter)
    misses: list[str] = field(default_factory=list)
    endings: Counter[tuple[str, str]] = field(default_factory=Counter)

    def rate(self, what: str) -> float:
        right = self.found[what, True]
        return right / max(1, right + self.found[what, False])

    def add(self, what: str, where: str, expected: Any, got: Any, ok: bool | None = None) -> None:
        is_right = expected == got if ok is None else ok
        self.found[what, is_right] += 1
        if not is_right:
            self.misses.append(f"{where}: {what}: {expected} expected, got {got}")


def judge(recorded: Sequence[Scenario], *, is_bare: bool) -> Comparison:
    """Judge recordings as the recorder and the linker would, without a wire or a database."""
    assembler = Assembler(load(None, {"HOME": "/"}), DIGESTS)
    links = [
        assembler.assembled(exchange_of(record, number, is_bare=is_bare)).beside.link
        for number, scenario in enumerate(recorded)
        for record in scenario.records
    ]
    facts = [link.facts for link in links if link is not None]
    found = place(facts)
    calls, turns = {}, {}
    for scenario in recorded:
        for record in scenario.records:
            where = found.placements[call_id(record)]
            calls[record["id"]] = Judged(where.session, where.kind, where.turn, where.round)
    for turn in turns_of(facts, found):
        is_sub = found.placements[turn.calls[0].id].kind is Kind.SUB_AGENT
        how = ending(turn, Turns(), LATER)
        assert how is not None
        rounds = max(turn.rounds.values())
        turns[turn.id] = JudgedTurn(how.stop_reason, rounds, tool_call_count(turn), is_sub)
    return compare(recorded, calls, turns)


def compare(
    recorded: Sequence[Scenario], calls: Mapping[str, Judged], turns: Mapping[UUID, JudgedTurn]
) -> Comparison:
    """Compare with the truth. `calls` are by the ids of the recordings."""
    result = Comparison()
    for scenario in recorded:
        _compare_calls(scenario, calls, turns, result)
        if scenario.is_complete:
            for truth in scenario.turns:
                _compare_turn(scenario, truth, calls, turns, result)
    return result


def _compare_calls(
    scenario: Scenario,
    calls: Mapping[str, Judged],
    turns: Mapping[UUID, JudgedTurn],
    result: Comparison,
) -> None:
    found = [(record["truth"]["role"], calls[record["id"]]) for record in scenario.records]
    sessions = {call.session for _, call in found}
    result.add("sessions", scenario.name, scenario.sessions, len(sessions))
    for role, call in found:
        is_sub = call.turn is not None and turns[call.turn].is_sub_agent
        shown = "side" if call.kind == "side" else "sub_agent" if is_sub else "main"
        result.add("roles", scenario.name, role.partition(":")[0], shown)


def _compare_turn(
    scenario: Scenario,
    truth: Mapping[str, Any],
    calls: Mapping[str, Judged],
    turns: Mapping[UUID, JudgedTurn],
    result: Comparison,
) -> None:
    where = truth["turn"]
    members = {record: calls[record].turn for record in truth["calls"]}
    others = {
        record["id"]
        for record in scenario.records
        if calls[record["id"]].turn in set(members.values()) - {None}
    }
    is_one = len(set(members.values())) == 1 and others == set(members)
    result.add("turns", where, "one turn of its own", "not", is_one)
    turn = turns.get(calls[truth["calls"][0]].turn or UUID(int=0))
    if turn is None:
        result.add("stop reasons", where, truth["stop_reason"], None)
        return
    for record in scenario.records:
        if record["id"] in members:
            expected = record["truth"]["round"]
            result.add("round numbers", where, expected, calls[record["id"]].round)
    result.add("rounds", where, truth["rounds"], turn.rounds)
    result.add("tool calls", where, truth["tool_calls"], turn.tool_call_count)
    good = (truth["stop_reason"], *truth.get("also_acceptable", ()))
    result.add("stop reasons", where, good, turn.stop_reason, turn.stop_reason in good)
    result.endings[truth["stop_reason"], turn.stop_reason] += 1


def confusion(result: Comparison) -> Iterator[str]:
    """The confusion matrix of stop reasons, as lines."""
    yield f"{'true':<44}{'judged':<44}turns"
    for (true, judged), number in sorted(result.endings.items()):
        yield f"{true:<44}{'=' if true == judged else judged:<44}{number:>5}"
