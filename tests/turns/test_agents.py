"""What real coding agents put on the wire is understood as they meant it, miss by miss none."""

import pytest

from tests.turns.recorded import FOLDER, HAS_RECORDINGS, judge, scenarios

pytestmark = pytest.mark.skipif(not HAS_RECORDINGS, reason=f"no recordings at {FOLDER}")


@pytest.mark.parametrize("is_bare", [False, True], ids=["their own headers", "no headers"])
def test_sessions_turns_rounds_and_endings_are_the_true_ones(is_bare):
    result = judge(scenarios(), is_bare=is_bare)
    assert result.misses == []
    assert sum(result.found.values()) > 1000
