"""WebSocket: the bytes of one direction of a socket, read into messages. RFC 6455 and RFC 7692.

Total on any bytes: what breaks the protocol sets `fault`, and nothing after it is read. Control
frames are passed over, but for the closing one. Whether a message is compressed is told by its own
RSV1 bit, and the direction's window is always kept: a sender without context takeover does not
refer to it, so the outcome of the negotiation need not be known.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

_CONTINUATION, _CLOSE = 0x0, 0x8
_OPCODES = frozenset({_CONTINUATION, 0x1, 0x2, _CLOSE, 0x9, 0xA})  # text, binary, ping, pong
_CONTROL_BYTES_MAX = 125
_WINDOW_BYTES = 32 * 1024
_DEFLATE_TAIL = b"\x00\x00\xff\xff"  # what a sender cuts off, RFC 7692 §7.2.1


class _Head(NamedTuple):
    """The head of a frame, RFC 6455 §5.2."""

    opcode: int
    is_final: bool
    is_compressed: bool
    mask: bytes
    length: int  # of the payload


class MessageReader:
    """One direction from its first byte on. `bytes_max` bounds a message, sent and inflated."""

    __slots__ = ("_buffer", "_bytes_max", "_left", "_message", "_window", "fault", "is_closed")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()
        self._left = 0  # bytes yet to come of a payload that is left out
        self._message: _Message | None = None
        self._window = b""
        self.fault: str | None = None
        self.is_closed = False  # a closing frame came

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages, text and binary alike, that end in these bytes."""
        self._buffer += data
        while self.fault is None and not self.is_closed:
            self._leave_out()
            found = _head(self._buffer)
            if self._left or found is None:
                return
            if isinstance(found, str):
                self.fault = found
                break
            head, at = found
            is_too_long = head.length > self._bytes_max
            if not is_too_long and len(self._buffer) < at + head.length:
                return
            payload = None if is_too_long else bytes(self._buffer[at : at + head.length])
            self._left = head.length if is_too_long else 0
            del self._buffer[: at + len(payload or b"")]
            if head.opcode == _CLOSE:
                self.is_closed = True
            elif head.opcode < _CLOSE:
                yield from self._take(head, payload)
        self._buffer.clear()

    def _leave_out(self) -> None:
        passed = min(self._left, len(self._buffer))
        del self._buffer[:passed]
        self._left -= passed

    def _take(self, head: _Head, payload: bytes | None) -> Iterator[bytes]:
        """A frame of a message; None: its payload is too long. Yields the message it ends."""
        if (head.opcode == _CONTINUATION) != (self._message is not None):
            self.fault = "a fragment without its message"
            return
        message = self._message = self._message or _Message(head.is_compressed)
        message.add(_unmasked(payload, head.mask) if payload else payload, self._bytes_max)
        if not head.is_final:
            return
        self._message = None
        whole = message.whole()
        if message.is_compressed:
            whole = self._inflated(whole)
        if whole is not None:
            yield whole

    def _inflated(self, data: bytes | None) -> bytes | None:
        """None: the window is lost, and with it whatever follows."""
        found = None if data is None else _inflated(data, self._window, self._bytes_max)
        if found is None:
            self.fault = "a compressed message is damaged or too long"
            return None
        self._window = (self._window + found)[-_WINDOW_BYTES:]
        return found


class _Message:
    """The fragments of a message so far."""

    __slots__ = ("_is_too_long", "_parts", "_size", "is_compressed")

    def __init__(self, is_compressed: bool) -> None:
        self.is_compressed = is_compressed
        self._parts: list[bytes] = []
        self._size = 0
        self._is_too_long = False

    def add(self, payload: bytes | None, bytes_max: int) -> None:
        self._size += len(payload or b"")
        self._is_too_long |= payload is None or self._size > bytes_max
        if self._is_too_long:
            self._parts.clear()
        elif payload:
            self._parts.append(payload)

    def whole(self) -> bytes | None:
        return None if self._is_too_long else b"".join(self._parts)


def _head(buffer: bytearray) -> tuple[_Head, int] | str | None:
    """The head at the beginning and where it ends; what is wrong with it; None: not all there."""
    if len(buffer) < 2:
        return None
    first, opcode, length, at = buffer[0], buffer[0] & 0x0F, buffer[1] & 0x7F, 2
    is_final, is_compressed = bool(first & 0x80), bool(first & 0x40)
    if first & 0x30 or opcode not in _OPCODES:
        return "a frame of an unknown kind"
    if opcode >= _CLOSE and (length > _CONTROL_BYTES_MAX or not is_final):
        return "a control frame that is long or fragmented"
    if is_compressed and (opcode >= _CLOSE or opcode == _CONTINUATION):
        return "a frame that cannot be compressed is"
    if length > _CONTROL_BYTES_MAX:  # 126: two bytes of length follow, 127: eight
        at += 2 if length == _CONTROL_BYTES_MAX + 1 else 8
        length = int.from_bytes(buffer[2:at])
    end = at + (4 if buffer[1] & 0x80 else 0)
    if len(buffer) < end:
        return None
    return _Head(opcode, is_final, is_compressed, bytes(buffer[at:end]), length), end


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    """As one large XOR: byte by byte it would take a second per ten megabytes."""
    if not mask:
        return payload
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)


def _inflated(data: bytes, window: bytes, bytes_max: int) -> bytes | None:
    """The message; None where it is no deflate data or larger than `bytes_max`."""
    rest, found = data + _DEFLATE_TAIL, b""
    try:
        while rest:  # a block marked as the last one ends zlib's stream, but not the message
            known = (window + found)[-_WINDOW_BYTES:]
            inflater = zlib.decompressobj(-15, zdict=known) if known else zlib.decompressobj(-15)
            found += inflater.decompress(rest, bytes_max - len(found) + 1)
            if len(found) > bytes_max:
                return None
            rest = inflater.unused_data
    except zlib.error:
        return None
    return found
