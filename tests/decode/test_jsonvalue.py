"""Reading JSON that breaks ordinary parsers, and looking into it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.decode.jsonvalue import (
    BROKEN,
    at,
    elements,
    first_count,
    members,
    read_json,
    string,
    whole,
    word,
)
from proxy.decode.problems import KINDS_MAX, Problems

KEPT = ("JSON holds numbers that are kept as text",)
AWKWARD: list[tuple[bytes, Any, tuple[str, ...]]] = [
    (b'{"a": 1}', {"a": 1}, ()),
    (b'\xef\xbb\xbf{"a": 1}', {"a": 1}, ()),
    (b"null", None, ()),
    (b"[NaN, Infinity, -Infinity]", ["NaN", "Infinity", "-Infinity"], KEPT),
    (b"18446744073709551616", 2**64, ()),
    (b"-9223372036854775809", -(2**63) - 1, ()),
    (b"9" * 4000, int("9" * 4000), ()),
    (b"9" * 5000, "9" * 5000, KEPT),
    (b"1e999", "1e999", KEPT),
    (b'"\\ud800"', "\ud800", ()),
    (b'"\\u0000"', "\x00", ()),
    (b'"\xff"', "\ufffd", ("JSON is not valid UTF-8",)),
    (b'"\xef\xbf\xbd"', "\ufffd", ()),
    (b'"a\nb"', "a\nb", ()),
    (b'{"a":1,"a":2}', {"a": 2}, ()),
    (b"", BROKEN, ()),
    (b"{", BROKEN, ()),
    (b"{} {}", BROKEN, ()),
    (b"[" * 100_000, BROKEN, ("JSON is nested too deep",)),
]


@pytest.mark.parametrize(("data", "value", "said"), AWKWARD)
def test_awkward_documents(data: bytes, value: Any, said: tuple[str, ...]) -> None:
    problems = Problems()
    assert read_json(data, problems) == value
    assert problems.as_tuple() == said


@given(st.binary(max_size=200) | st.text('[]{}",:019.eE+-NaInfity\\', max_size=20).map(str.encode))
def test_any_bytes_give_a_value_or_broken(data: bytes) -> None:
    """No bytes raise, and a value is one that JSON can hold: written, it is read as itself."""
    value = read_json(data, Problems())
    if value is not BROKEN:
        assert read_json(json.dumps(value, allow_nan=False).encode(), Problems()) == value


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text())
def test_what_json_writes_is_read_back(value: object) -> None:
    """Any number and any text survives, also integers beyond 64 bits and lone surrogates."""
    assert read_json(json.dumps([value]).encode(), Problems()) == [value]


def test_looks_into_anything_without_an_error() -> None:
    value: Any = {"a": [{"b": "x"}], "n": 1.0, "f": 1.5, "t": True, "s": ""}
    assert at(value, "a", 0, "b") == "x"
    assert at(value, "a", -1, "b") == "x"
    assert [at(value, "a", 1), at(value, "a", "b"), at(value, 0), at(BROKEN, "a")] == [None] * 4
    assert (members(value["a"]), elements(value), string(value)) == ({}, [], "")
    assert (word(value["s"]), word(3), word("x")) == (None, None, "x")
    assert [whole(value[name]) for name in ("n", "f", "t", "s")] == [1, None, None, None]
    assert (first_count(value, "t", "n"), first_count(value, "x")) == (1, None)
    assert whole(float("inf")) is None


def test_problems_are_counted_and_bounded() -> None:
    problems = Problems()
    for number in range(100):
        problems.add("same")
        problems.add(f"kind {number}")
    assert problems.as_tuple()[0] == "same (100 times)"
    assert len(problems.as_tuple()) == KINDS_MAX
