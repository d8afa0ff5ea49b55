"""What real coding agents put on the wire is understood as they meant it.

Misses that the wire cannot tell are listed in `KNOWN`; everything else is exact.
"""

from datetime import UTC, datetime

import pytest

from proxy.assemble import Assembler
from proxy.config import Turns, load
from proxy.enrich.threads import place, turns_of
from proxy.enrich.turns import ending, tool_call_count
from proxy.turn import Kind
from tests.turns.recorded import (
    FOLDER,
    HAS_RECORDINGS,
    Comparison,
    Judged,
    JudgedTurn,
    call_id,
    compare,
    exchange_of,
    scenarios,
)
from tests.turns.scripts import DIGESTS

pytestmark = pytest.mark.skipif(not HAS_RECORDINGS, reason=f"no recordings at {FOLDER}")

LATER = datetime(2100, 1, 1, tzinfo=UTC)


def judge(*, is_bare: bool) -> Comparison:
    assembler = Assembler(load(None, {"HOME": "/"}), DIGESTS)
    links = {
        record["id"]: assembler.assembled(exchange_of(record, number, is_bare=is_bare)).beside.link
        for number, scenario in enumerate(scenarios())
        for record in scenario.records
    }
    facts = [link.facts for link in links.values()]
    found = place(facts)
    calls, turns = {}, {}
    for scenario in scenarios():
        for record in scenario.records:
            where = found.placements[call_id(record)]
            calls[record["id"]] = Judged(where.session, where.kind, where.turn, where.round)
    for turn in turns_of(facts, found):
        is_sub = found.placements[turn.calls[0].id].kind is Kind.SUB_AGENT
        reason = ending(turn, Turns(), LATER).stop_reason
        rounds = max(turn.rounds.values())
        turns[turn.id] = JudgedTurn(reason, rounds, tool_call_count(turn), is_sub)
    return compare(calls, turns)


@pytest.mark.parametrize("is_bare", [False, True], ids=["their own headers", "no headers"])
def test_sessions_turns_rounds_and_endings_are_the_true_ones(is_bare):
    result = judge(is_bare=is_bare)
    assert result.misses == []
    assert sum(result.found.values()) > 1000
