"""No fault of telemetry adds to the time until the first byte: all states in turn, in one run.

In the long form only, since a busy machine says nothing about times.
"""

import statistics

import pytest

from bench.faults import full_disk, measure
from tests.faults.report import STATES
from tests.faults.scale import IS_FULL, left, note

SUITE = "first byte"
ROUNDS = 1000
RATIO_MAX = 1.1


@pytest.mark.skipif(not IS_FULL, reason="compares times: `make faults` runs it")
async def test_no_fault_adds_to_the_time_until_the_first_byte():
    if not left(SUITE, "rounds", short=0, full=ROUNDS):
        pytest.skip("done on this commit")
    with full_disk() as disk:
        if disk is None:
            pytest.skip("mounting a small file system needs a right that this user lacks")
    added = await measure(ROUNDS)
    assert added.keys() == set(STATES)
    p50 = {state: statistics.median(values) for state, values in added.items()}
    p99 = {state: statistics.quantiles(values, n=100)[98] for state, values in added.items()}
    ratios = {state: round(p50[state] / p50["healthy"], 3) for state in STATES}
    assert max(ratios.values()) <= RATIO_MAX, (ratios, p50, p99)
    note(
        SUITE,
        rounds=ROUNDS,
        **{f"{state} p50_us_max": round(1000 * p50[state]) for state in STATES},
        **{f"{state} p99_us_max": round(1000 * p99[state]) for state in STATES},
    )
