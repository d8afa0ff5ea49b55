"""Arguments of tool calls: values, and the text where a value would not give it back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.decode.arguments import tool_call

TEXTS: list[tuple[str, Any, bool]] = [
    ("", {}, False),
    (" \n", {}, False),
    ("{}", {}, False),
    ("null", {}, True),
    ('{"a": 1, "b": [true]}', {"a": 1, "b": [True]}, False),
    ('{"b": 1, "a": 2}', {"b": 1, "a": 2}, True),  # a database sorts keys
    ('{"bb": 1, "a": 2}', {"bb": 1, "a": 2}, True),
    ('{"b": 1, "aa": 2}', {"b": 1, "aa": 2}, False),  # shorter keys come first
    ('{"a": 1, "a": 2}', {"a": 2}, True),
    ('{"a": {"d": 1, "c": 2}}', {"a": {"d": 1, "c": 2}}, True),
    ('{"a": 1.0}', {"a": 1.0}, False),
    ('{"a": 1.50}', {"a": 1.5}, True),
    ('{"a": 1e5}', {"a": 100000.0}, True),
    ('{"a": -0}', {"a": 0}, True),
    ('{"a": 12345678901234567890123}', {"a": 12345678901234567890123}, True),
    ('{"a": NaN}', {"a": "NaN"}, True),
    ('"text"', "text", False),
    ("ls -l", "ls -l", False),
    ('{"a": ', '{"a": ', False),
]


@pytest.mark.parametrize(("text", "value", "keeps_text"), TEXTS)
def test_arguments_given_as_text(text: str, value: Any, keeps_text: bool) -> None:
    call = tool_call("c", "f", text)
    assert call.arguments == value
    assert call.raw == (text if keeps_text else None)


def test_arguments_given_as_an_object_keep_their_key_order() -> None:
    assert tool_call(None, "f", {"a": 1, "b": 2}).raw is None
    assert tool_call(None, "f", {"b": "é", "a": 2}).raw == '{"b":"é","a":2}'
    assert tool_call(None, "f", None).arguments == {}
    assert tool_call(None, "f", 3).as_json() == {"id": None, "name": "f", "arguments": 3}


def test_arguments_nested_beyond_the_stack_are_kept() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    assert tool_call(None, "f", deep).raw is None
    assert tool_call(None, "f", '{"a":' * 5000).arguments == '{"a":' * 5000
    nested = '{"a":' * 900 + "1" + "}" * 900
    assert tool_call(None, "f", nested).raw in (None, nested)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_value_or_text_tells_what_the_model_wrote(value: object) -> None:
    """Where no text is kept, the value written in a database's key order is the text."""
    text = json.dumps(value)
    call = tool_call(None, "f", text)
    if call.raw is None:
        assert json.dumps(call.arguments) == text
    else:
        assert call.raw == text
