"""Lines and array elements, cut out as bytes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from proxy.decode.ndjson import read_array, read_lines

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


def test_blank_lines_are_no_documents() -> None:
    found = list(read_lines(b'{"a":1}\r\n\n  \n{"b":'))
    assert [(doc.data, doc.end, doc.is_ended) for doc in found] == [
        (b'{"a":1}\r\n', 9, True),
        (b'{"b":', 18, False),
    ]


def test_the_closing_bracket_of_an_array_is_an_empty_document() -> None:
    found = list(read_array(b'[{"a":"]}"}\r\n,[1]] trailing'))
    assert [doc.data for doc in found] == [b'{"a":"]}"}', b"[1]", b""]


def test_a_cut_array_ends_with_what_is_left() -> None:
    found = list(read_array(b'[{"a":1},{"b":"\\'))
    assert [(doc.data, doc.is_ended) for doc in found] == [(b'{"a":1}', True), (b'{"b":"\\', False)]


@given(
    st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), max_size=3),
    st.integers(0, 4),
)
def test_every_array_of_objects_comes_apart_again(
    values: list[dict[str, object]], indent: int
) -> None:
    """What json writes as an array is cut into its elements, in order."""
    text = json.dumps(values, ensure_ascii=False, indent=indent or None).encode("utf-8", "replace")
    found = list(read_array(text))
    assert [json.loads(doc.data) for doc in found if doc.data] == json.loads(text)
    assert found[-1].data == b""


@given(st.binary(max_size=200))
def test_any_bytes_are_cut_without_an_error(stream: bytes) -> None:
    """No bytes raise; offsets rise."""
    for found in (list(read_array(stream)), list(read_lines(stream))):
        ends = [doc.end for doc in found]
        assert ends == sorted(ends)
