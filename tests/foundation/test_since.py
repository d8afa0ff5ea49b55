"""Spans of time as people write them."""

from datetime import UTC, datetime

import pytest

from proxy.since import instant_of

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("90s", datetime(2026, 3, 10, 11, 58, 30, tzinfo=UTC)),
        ("30m", datetime(2026, 3, 10, 11, 30, tzinfo=UTC)),
        ("24h", datetime(2026, 3, 9, 12, tzinfo=UTC)),
        (" 7d ", datetime(2026, 3, 3, 12, tzinfo=UTC)),
        ("2w", datetime(2026, 2, 24, 12, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_spans_dates_and_instants(text, instant):
    assert instant_of(text, NOW) == instant


BEFORE_TIME, AFTER_TIME = "0001-01-01T00:00+12:00", "9999-12-31T23:00-12:00"


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "7", "d", "-1d", "999999w", "2026-13-01", BEFORE_TIME, AFTER_TIME],
)
def test_anything_else_is_refused_with_the_remedy(text):
    with pytest.raises(ValueError, match="write 24h"):
        instant_of(text, NOW)
