"""The documents name tests: each of them exists, and no row of the matrix is without one."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
NAMED = re.compile(r"`([a-z0-9_]+/test_[a-z0-9_]+\.py)(?:::(test_[a-z0-9_]+))?`")
ROWS = 45


def named(text):
    return [(match[1], match[2]) for match in NAMED.finditer(text)]


@pytest.mark.parametrize("document", ["failure-matrix.md", "security-checklist.md"])
def test_each_test_that_a_document_names_exists(document):
    found = named((DOCS / document).read_text(encoding="utf-8"))
    assert len(found) >= 20
    lacking = [
        (path, name)
        for path, name in found
        if not (TESTS / path).exists()
        or (name and f"def {name}(" not in (TESTS / path).read_text())
    ]
    assert lacking == []


def test_each_row_of_the_matrix_has_a_test():
    text = (DOCS / "failure-matrix.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+) \|(.*)\|$", text, re.MULTILINE))
    assert sorted(map(int, rows)) == list(range(1, ROWS + 1))
    assert [number for number, row in rows.items() if not named(row)] == []
