"""What real frameworks send is understood as scripted: replayed from what was kept of them."""

import pytest

from tests.agents import kept
from tests.agents.scenarios import scenarios
from tests.turns.recorded import judge


@pytest.mark.parametrize("is_bare", [False, True], ids=["labelled", "without labels"])
def test_sessions_turns_rounds_and_endings_are_the_scripted_ones(is_bare):
    result = judge(kept.recorded(is_bare=is_bare), is_bare=is_bare)
    assert result.misses == []
    assert result.found["turns", True] >= 40


def test_every_scenario_is_kept():
    names = [recorded.name for recorded in kept.recorded(is_bare=True)]
    assert sorted(names) == sorted(scenario.full_name for scenario in scenarios())
