"""AWS event stream: good messages come through, damaged ones do not take others with them."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.decode.eventstream import Message, read_messages, starts_message
from proxy.decode.problems import Problems
from tests.decode.cases import raw_message

FIRST = raw_message({":event-type": "a"}, b'{"x":1}')
SECOND = raw_message({":event-type": "b", ":message-type": "event"}, b"")
THIRD = raw_message({}, b"payload")
WHOLE = FIRST + SECOND + THIRD


def read(stream: bytes) -> tuple[list[Message], tuple[str, ...]]:
    problems = Problems()
    return list(read_messages(stream, problems)), problems.as_tuple()


def test_headers_payload_and_offsets() -> None:
    messages, problems = read(WHOLE)
    assert [(message.headers, message.payload) for message in messages] == [
        ({":event-type": "a"}, b'{"x":1}'),
        ({":event-type": "b", ":message-type": "event"}, b""),
        ({}, b"payload"),
    ]
    assert [message.end for message in messages] == [
        len(FIRST),
        len(FIRST + SECOND),
        len(WHOLE),
    ]
    assert problems == ()


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_cut_stream_gives_its_whole_messages(length: int) -> None:
    messages, problems = read(WHOLE[:length])
    whole = [end for end in (len(FIRST), len(FIRST + SECOND)) if end <= length]
    assert [message.end for message in messages] == whole
    assert problems == (() if length in (0, *whole) else ("event stream is cut short",))


@given(st.integers(0, len(WHOLE) * 8 - 1))
def test_one_flipped_bit_costs_one_message(bit: int) -> None:
    """A flipped bit loses at most the message it is in, and never invents one."""
    damaged = bytearray(WHOLE)
    damaged[bit // 8] ^= 1 << bit % 8
    messages, problems = read(bytes(damaged))
    truth = read(WHOLE)[0]
    assert len(messages) == len(truth) - 1
    assert all(message in truth for message in messages)
    assert problems


def test_headers_of_other_types_are_passed_over() -> None:
    block = b"\x01t\x00" + b"\x01i\x04\x00\x00\x00\x01" + b"\x01b\x06\x00\x02xy"
    block += b"\x01s\x07\x00\x01z" + b"\x02"  # the last breaks off
    prelude = (16 + len(block)).to_bytes(4, "big") + len(block).to_bytes(4, "big")
    data = prelude + crc32(prelude).to_bytes(4, "big") + block
    messages, _ = read(data + crc32(data).to_bytes(4, "big"))
    assert messages[0].headers == {"s": "z"}


def test_a_length_below_the_smallest_message_is_damage() -> None:
    prelude = (4).to_bytes(4, "big") + bytes(4)
    stream = prelude + crc32(prelude).to_bytes(4, "big") + FIRST
    messages, problems = read(stream)
    assert [message.payload for message in messages] == [b'{"x":1}']
    assert problems[0].startswith("event stream holds a damaged message")


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(stream: bytes) -> None:
    """No bytes raise, with or without a true beginning."""
    read(stream)
    read(FIRST[:12] + stream)
    assert starts_message(FIRST)
