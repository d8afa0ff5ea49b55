"""The failure matrix is whole, and no row of it is without a test (tests/docs: each exists)."""

import re
from pathlib import Path

MATRIX = Path(__file__).parents[2] / "docs" / "failure-matrix.md"
NAMED = re.compile(r"`[a-z0-9_]+/test_[a-z0-9_]+\.py(?:::test_[a-z0-9_]+)?`")
ROWS = 45


def test_each_row_of_the_matrix_has_a_test():
    text = MATRIX.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+) \|(.*)\|$", text, re.MULTILINE))
    assert sorted(map(int, rows)) == list(range(1, ROWS + 1))
    assert [number for number, row in rows.items() if not NAMED.search(row)] == []
