"""AWS event stream: binary messages with checksums, as Bedrock streams its answers.

    total length  4   headers length  4   CRC-32 of these 8  4
    headers  (name length 1, name, type 1, value)*      payload      CRC-32 of all before  4

Numbers are big-endian. Only string headers (type 7) are kept, which are all that Bedrock sends.
Source: https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from proxy.decode.problems import Problems

_PRELUDE_BYTES = 12
_MESSAGE_BYTES_MIN = 16
_SEARCH_BYTES_MAX = 1024 * 1024  # how far to look for the next message after a damaged one
_STRING = 7
# Type → bytes of the value; types 6 (bytes) and 7 (string) carry a length of 2 bytes.
_FIXED_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `end` is the offset behind it."""

    headers: dict[str, str]
    payload: bytes
    end: int


def starts_message(data: bytes, offset: int = 0) -> bool:
    """Whether a message begins here, by the checksum of its prelude."""
    prelude = data[offset : offset + _PRELUDE_BYTES]
    if len(prelude) < _PRELUDE_BYTES:
        return False
    return crc32(prelude[:8]) == int.from_bytes(prelude[8:], "big")


def read_messages(stream: bytes, problems: Problems) -> Iterator[Message]:
    """The messages whose checksums hold; after damage the search goes on at the next one."""
    offset = 0
    while offset < len(stream):
        if not starts_message(stream, offset):
            found = _next_start(stream, offset + 1)
            problems.add("event stream is cut short" if found is None else _DAMAGED)
            if found is None:
                return
            offset = found
            continue
        length = int.from_bytes(stream[offset : offset + 4], "big")
        end = offset + length
        if length < _MESSAGE_BYTES_MIN:
            problems.add(_DAMAGED)
            offset += 1
        elif end > len(stream):
            problems.add("event stream is cut short")
            return
        elif crc32(stream[offset : end - 4]) != int.from_bytes(stream[end - 4 : end], "big"):
            problems.add(_DAMAGED)
            offset = end
        else:
            yield _message(stream[offset:end], end)
            offset = end


_DAMAGED = "event stream holds a damaged message"


def _next_start(stream: bytes, offset: int) -> int | None:
    limit = min(len(stream), offset + _SEARCH_BYTES_MAX)
    return next((at for at in range(offset, limit) if starts_message(stream, at)), None)


def _message(data: bytes, end: int) -> Message:
    headers_end = min(_PRELUDE_BYTES + int.from_bytes(data[4:8], "big"), len(data) - 4)
    headers = dict(_headers(data[_PRELUDE_BYTES:headers_end]))
    return Message(headers, data[headers_end:-4], end)


def _headers(block: bytes) -> Iterator[tuple[str, str]]:
    offset = 0
    while offset < len(block):
        name_end = offset + 1 + block[offset]
        name = block[offset + 1 : name_end].decode("utf-8", "replace")
        kind, offset = block[name_end : name_end + 1], name_end + 1
        if not kind:
            return
        if kind[0] in _FIXED_BYTES:
            offset += _FIXED_BYTES[kind[0]]
            continue
        length = int.from_bytes(block[offset : offset + 2], "big")
        if kind[0] == _STRING:
            yield name, block[offset + 2 : offset + 2 + length].decode("utf-8", "replace")
        offset += 2 + length
