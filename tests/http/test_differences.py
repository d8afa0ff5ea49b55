"""Every raw request does what `docs/http.md` says, and every difference of ours has its reason.

Whoever changes what the gateway does with a request runs `python -m tests.http.table` and reviews
what changed in the document.
"""

import asyncio

import pytest

from tests.http import fronts, table
from tests.http.cases import all_cases
from tests.http.justified import RULES, rule_for
from tests.http.verdict import differences

CASES = all_cases()


@pytest.fixture(scope="module")
def found():
    names = [name for name in fronts.NAMES if not fronts.missing(name)]
    return asyncio.run(table.observed(names))


def of_ours(found):
    pairs = zip(found["direct"], found[fronts.OURS], strict=True)
    return [differences(direct, front) for direct, front in pairs]


def test_each_difference_of_ours_has_its_reason(found):
    named = zip(CASES, of_ours(found), strict=True)
    lacking = [
        (case.group, case.name, difference)
        for case, each in named
        for difference in each
        if rule_for(case, difference) is None
    ]
    assert len(CASES) >= 300
    assert lacking == []


def test_each_reason_is_needed(found):
    named = zip(CASES, of_ours(found), strict=True)
    used = {rule_for(case, difference) for case, each in named for difference in each}
    assert [rule.key for rule in RULES if rule not in used] == []


def test_the_document_says_what_the_gateway_does(found):
    documented = table.DOCUMENT.read_text(encoding="utf-8")
    now = table.document({name: found[name] for name in ("direct", fronts.OURS)})
    assert _gateways_part(documented) == _gateways_part(now)


def _gateways_part(document):
    """The cells of case and gateway, and everything that is not a table."""
    lines = document.splitlines()
    return [line.split(" | ")[:2] if line.startswith("| ") else line for line in lines]


def test_nothing_that_we_forward_is_unreadable_or_looks_whole_when_cut(found):
    phrases = {difference for each in of_ours(found) for difference in each}
    forbidden = {"forwards what h11 refuses", "a cut answer looks whole", "stays open"}
    assert phrases & forbidden == set()


# Heads within our limits, which are wider than theirs, and a chunk that never comes to its end.
WIDER = {
    "one of 60000 bytes",
    "five of 60000 bytes",
    r"fffffffffffffff0\r\n{}\r\n0\r\n\r\n",
}


def test_what_nginx_and_haproxy_refuse_we_refuse(found):
    for name in ("nginx", "haproxy"):
        if reason := fronts.missing(name):
            pytest.skip(reason)
    pairs = zip(CASES, *(found[name] for name in fronts.NAMES[1:]), strict=True)
    wider = {
        case.name
        for case, ours, nginx, haproxy in pairs
        if ours.seen and not nginx.seen and not haproxy.seen
    }
    assert wider == WIDER
