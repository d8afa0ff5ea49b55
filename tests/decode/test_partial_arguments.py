"""Gemini's values at JSON paths."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.decode.partial_arguments import set_partial

PATHS: list[tuple[str, Any]] = [
    ("$.a", {"a": "x"}),
    ("$.a.b", {"a": {"b": "x"}}),
    ("$.a[0]", {"a": ["x"]}),
    ("$.a[1].b", {"a": [None, {"b": "x"}]}),
    ("$['a b']", {"a b": "x"}),
    ('$["a.b"][0]', {"a.b": ["x"]}),
]
REFUSED = ["", "a", "$", "$[0]", "$..a", "$.a[x]", "$.a[99999]", "$.a[*]", "$" + ".a" * 100]


@pytest.mark.parametrize(("path", "expected"), PATHS)
def test_a_value_is_put_at_its_path(path: str, expected: Any) -> None:
    arguments: dict[str, Any] = {}
    assert set_partial(arguments, {"jsonPath": path, "stringValue": "x"})
    assert arguments == expected


@pytest.mark.parametrize("path", REFUSED)
def test_a_path_of_another_form_is_refused(path: str) -> None:
    assert not set_partial({}, {"jsonPath": path, "stringValue": "x"})


def test_text_goes_on_and_other_values_replace() -> None:
    arguments: dict[str, Any] = {"n": 1}
    for partial in (
        {"jsonPath": "$.a", "stringValue": "x"},
        {"jsonPath": "$.a", "stringValue": "y"},
        {"jsonPath": "$.n", "numberValue": 2},
    ):
        assert set_partial(arguments, partial)
    assert arguments == {"a": "xy", "n": 2}


def test_a_path_through_a_value_is_refused() -> None:
    arguments: dict[str, Any] = {"a": "x", "l": []}
    assert not set_partial(arguments, {"jsonPath": "$.a.b", "stringValue": "y"})
    assert not set_partial(arguments, {"jsonPath": "$.l.b", "stringValue": "y"})
    assert not set_partial(arguments, {"jsonPath": "$.l[1000].b", "stringValue": "y"})
    assert arguments == {"a": "x", "l": []}


STEPS = st.sampled_from(
    [".a", ".b", "[0]", "[1]", "['a']", '["b"]', "[99]", ".", "[", "]", "'", "x"]
)


@given(st.lists(st.lists(STEPS, max_size=4).map(lambda steps: "".join(["$", *steps])), max_size=8))
def test_any_paths_leave_an_object(paths: list[str]) -> None:
    """No series of paths raises, and each that is taken changes something."""
    arguments: dict[str, Any] = {}
    for path in paths:
        before = deepcopy(arguments)
        if set_partial(arguments, {"jsonPath": path, "stringValue": "x"}):
            assert arguments != before
