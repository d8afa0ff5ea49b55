"""SSE framing against the WHATWG rules, and against a slow reference."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.decode.sse import read_frames

STREAMS = {
    "line feeds": (b"data: a\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
    "carriage returns": (b"data: a\r\rdata: b\r\r", [("", b"a"), ("", b"b")]),
    "both": (b"data: a\r\n\r\ndata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
    "mixed": (b"data: a\r\n\ndata: b\n\r\n", [("", b"a"), ("", b"b")]),
    "no blank line at the end": (b"data: a\n\ndata: b", [("", b"a"), ("", b"b")]),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
    "comments": (b": hi\n\n:\ndata: a\n: x\n\n", [("", b"a")]),
    "several data lines": (b"data: a\ndata:b\ndata\n\n", [("", b"a\nb\n")]),
    "one space is cut": (b"data:  a\n\n", [("", b" a")]),
    "named": (b"event: ping\ndata: a\n\ndata: b\n\n", [("ping", b"a"), ("", b"b")]),
    "a name without data is no event": (b"event: ping\n\ndata: b\n\n", [("", b"b")]),
    "other fields": (b"id: 1\nretry: 2\nfoo: 3\ndata: a\n\n", [("", b"a")]),
    "invalid UTF-8": (b"event: \xff\ndata: \xff\n\n", [("\ufffd", b"\xff")]),
    "empty": (b"", []),
}


@pytest.mark.parametrize("name", STREAMS)
def test_frames(name: str) -> None:
    stream, expected = STREAMS[name]
    assert [(frame.name, frame.data) for frame in read_frames(stream)] == expected


def test_a_line_of_20_megabytes_is_one_frame() -> None:
    line = b"x" * 20_000_000
    assert [frame.data for frame in read_frames(b"data: " + line + b"\n\n")] == [line]


def test_only_a_frame_with_its_blank_line_is_ended() -> None:
    assert [frame.is_ended for frame in read_frames(b"data: a\n\ndata: b\n")] == [True, False]


def test_end_is_the_offset_behind_the_frame() -> None:
    stream = b"\xef\xbb\xbf: c\n\ndata: a\n\ndata: b\n"
    assert [stream[: frame.end] for frame in read_frames(stream)] == [stream[:-8], stream]


def reference(stream: bytes) -> list[tuple[str, bytes]]:
    """The standard's algorithm, step by step."""
    found, name, data = [], "", list[bytes]()
    if stream[:3] == b"\xef\xbb\xbf":
        stream = stream[3:]
    for line in [*re.split(rb"\r\n|\r|\n", stream), b""]:
        if line == b"":
            if data:
                found.append((name, b"\n".join(data)))
            name, data = "", []
        elif not line.startswith(b":"):
            field, _, value = line.partition(b":")
            value = value[1:] if value[:1] == b" " else value
            if field == b"data":
                data.append(value)
            if field == b"event":
                name = value.decode("utf-8", "replace")
    return found


PARTS = st.sampled_from(
    [b"data", b"event", b":", b" ", b"\n", b"\r", b"\r\n", b"x", b"\xef\xbb\xbf", b"\xff", b"id"]
)


@given(st.lists(PARTS, max_size=60).map(b"".join))
def test_any_stream_is_read_as_the_reference_reads_it(stream: bytes) -> None:
    """Same frames as the standard's algorithm, whatever the bytes."""
    assert [(frame.name, frame.data) for frame in read_frames(stream)] == reference(stream)


@given(st.lists(PARTS, max_size=60).map(b"".join))
def test_ends_rise_and_stay_inside_the_stream(stream: bytes) -> None:
    """The offsets behind the frames rise and never pass the end."""
    ends = [frame.end for frame in read_frames(stream)]
    assert ends == sorted(ends)
    assert all(0 < end <= len(stream) for end in ends)
