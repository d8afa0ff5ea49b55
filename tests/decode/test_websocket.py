"""WebSocket framing: what the `websockets` library writes is read back, however it is cut."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from proxy.decode.websocket import MessageReader

ROOM = 1_000_000
MESSAGES = [b"", b"a", b"hello " * 100, b"x" * 125, b"y" * 126, b"z" * 65_535, b"hello " * 20_000]
COMPRESSION = {
    "plain": [],
    "context takeover": [PerMessageDeflate(False, False, 15, 15)],
    "no context takeover": [PerMessageDeflate(True, True, 15, 15)],
    "a small window": [PerMessageDeflate(False, False, 9, 9)],
}


def frames(messages: list[bytes], extensions: list, *, mask: bool, fragment: int = 0) -> bytes:
    """Messages as sent; with `fragment`, in so many pieces with a ping between them."""
    out = b""
    for message in messages:
        parts = [message]
        if fragment:
            step = max(1, len(message) // fragment)
            parts = [message[at : at + step] for at in range(0, max(1, len(message)), step)]
        for number, part in enumerate(parts):
            opcode = Opcode.CONT if number else Opcode.TEXT
            is_last = number == len(parts) - 1
            out += Frame(opcode, part, is_last).serialize(mask=mask, extensions=extensions)
            out += Frame(Opcode.PING, b"?").serialize(mask=mask)
    return out


def read(
    data: bytes, step: int | None = None, room: int = ROOM
) -> tuple[list[bytes], MessageReader]:
    reader = MessageReader(room)
    step = step or max(1, len(data))
    found = [m for at in range(0, len(data), step) for m in reader.feed(data[at : at + step])]
    return found, reader


@pytest.mark.parametrize("fragment", [0, 3])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("compression", COMPRESSION)
def test_messages_are_read_back_whole_and_in_pieces(compression, mask, fragment):
    ext = [PerMessageDeflate(*_settings(e)) for e in COMPRESSION[compression]]
    data = frames(MESSAGES, ext, mask=mask, fragment=fragment)
    for step in (None, 1000, 7):
        assert read(data, step)[0] == MESSAGES


def _settings(extension: PerMessageDeflate) -> tuple[bool, bool, int, int]:
    return (
        extension.remote_no_context_takeover,
        extension.local_no_context_takeover,
        extension.remote_max_window_bits,
        extension.local_max_window_bits,
    )


def test_byte_by_byte():
    data = frames(MESSAGES[:5], [], mask=True, fragment=2)
    assert read(data, 1)[0] == MESSAGES[:5]


def test_a_block_marked_as_the_last_does_not_end_the_message_or_the_window():
    first = zlib.compressobj(wbits=-15)
    payload = first.compress(b"hello ") + first.flush() + b"\x00"  # RFC 7692 §7.2.3.5
    second = zlib.compressobj(wbits=-15, zdict=b"hello ")
    later = (second.compress(b"hello ") + second.flush(zlib.Z_SYNC_FLUSH))[:-4]
    data = b"".join(bytes([0xC1, len(p)]) + p for p in (payload, later))
    assert read(data)[0] == [b"hello ", b"hello "]


def test_a_closing_frame_ends_the_direction():
    data = frames([b"a"], [], mask=False) + Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False)
    found, reader = read(data + frames([b"b"], [], mask=False))
    assert (found, reader.is_closed, reader.fault) == ([b"a"], True, None)


@pytest.mark.parametrize("fragment", [0, 4])
@pytest.mark.parametrize("step", [None, 100])
def test_a_message_that_is_too_long_is_left_out_and_the_next_is_read(step, fragment):
    data = frames([b"x" * 5000, b"next"], [], mask=True, fragment=fragment)
    found, reader = read(data, step, room=2000)
    assert (found, reader.fault) == ([b"next"], None)


def test_a_compressed_message_that_grows_too_large_ends_the_reading():
    bomb = frames([b"0" * 10_000_000], COMPRESSION["context takeover"], mask=False)
    found, reader = read(bomb + frames([b"next"], [], mask=False))
    assert found == []
    assert reader.fault == "a compressed message is damaged or too long"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x83\x00", id="an unknown opcode"),
        pytest.param(b"\xa1\x00", id="an unknown reserved bit"),
        pytest.param(b"\x89\x7e\x00\x80", id="a long ping"),
        pytest.param(b"\x09\x00", id="a fragmented ping"),
        pytest.param(b"\xc9\x00", id="a compressed ping"),
        pytest.param(b"\x80\x00", id="a fragment of nothing"),
        pytest.param(b"\x01\x00\x81\x00", id="a message inside another"),
        pytest.param(b"\xc1\x02\xff\xff", id="what is no deflate data"),
    ],
)
def test_what_breaks_the_protocol_ends_the_reading(data):
    found, reader = read(data + frames([b"next"], [], mask=False))
    assert found == []
    assert reader.fault


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_read_the_same_however_they_are_cut(data, step):
    """Reading never raises, and does not depend on the pieces."""
    whole, reader = read(data, room=100)
    cut, other = read(data, step, room=100)
    assert (whole, reader.fault, reader.is_closed) == (cut, other.fault, other.is_closed)
