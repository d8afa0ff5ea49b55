"""Segment: the spool's record format. Bytes in, records out; no files are touched here.

A segment is records one after the other, nothing between them and nothing in front:

     0       4         5      6      8      12     28       36       40            44           48
    +-------+---------+------+------+------+------+--------+--------+-------------+------------+
    | magic | version | kind | zero | part |  id  | number | length | payload CRC | header CRC |
    |  4 B  |   u8    |  u8  | 2 B  | u32  | 16 B |  u64   |  u32   |     u32     |    u32     |
    +-------+---------+------+------+------+------+--------+--------+-------------+------------+
    | payload, `length` bytes                                                                  |
    +------------------------------------------------------------------------------------------+

All integers are little-endian. `part` counts the records of one exchange from 0, so that a missing
one shows. `number` is the offset in microseconds at which the record was made, for START the
call's sequence in its slot and for BOOT the last sequence before it.

    kind          id            payload
    BOOT     1    the writer's  the writer's counters; first record of each incarnation of a writer
    START    2    exchange      `Start.to_bytes()`, sequence 0: it stands in the header
    REQUEST  3    exchange      bytes of the request's body
    HEAD     4    exchange      `AnswerHead.to_bytes()`
    RESPONSE 5    exchange      bytes of the answer's body, as one read delivered them
    END      6    exchange      `End.to_bytes()`
    ACK      7    zero          journal only: see `journal`

Rules
- The header has a CRC of its own. Where it holds, `length` can be believed: a damaged payload
  costs its own record only, a torn one is told from damage, and bytes inside a body are not taken
  for a record. Where it fails, reading goes on at the next sound header, in linear time.
- The CRC is zlib's CRC-32. CRC-32C would find the same errors (all bursts up to 32 bits). Where
  ISA-L is installed it computes the same CRC, for a large body in a sixteenth of zlib's time.
- The header is the same in every version. A reader that meets a newer version hops over the record
  and keeps the file. A change of a payload, a new field of a noun included, needs a new version.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

try:
    from isal.isal_zlib import crc32
except ImportError:  # a platform without a wheel of it
    from zlib import crc32

VERSION = 1
MAGIC = b"\xaeTs\x96"  # no UTF-8 text holds it
PAYLOAD_BYTES_MAX = 8 * 1024 * 1024  # larger bodies are cut into several records

_FIELDS = struct.Struct("<4sBBHI16sQII")
_CRC = struct.Struct("<I")
_PACKED = struct.Struct("<8sI16sQII")  # the same with one value for the first four, twice as quick
HEADER_BYTES = _FIELDS.size + _CRC.size
RECORD_BYTES_MAX = HEADER_BYTES + PAYLOAD_BYTES_MAX


class Kind(IntEnum):
    BOOT = 1
    START = 2
    REQUEST = 3
    HEAD = 4
    RESPONSE = 5
    END = 6
    ACK = 7


def first_bytes(version: int) -> list[bytes]:
    """Magic, version and kind as a header begins with them, for each kind."""
    return [struct.pack("<4sBBH", MAGIC, version, kind, 0) for kind in range(1 + max(Kind))]


_FIRST = first_bytes(VERSION)


class Header(NamedTuple):
    """The head of one record. `kind` is a plain int: a newer version may have others."""

    version: int
    kind: int
    part: int
    key: bytes  # 16 bytes: the exchange's id
    number: int
    length: int
    payload_crc: int


class Found(NamedTuple):
    """A whole record, from `offset` to `end`."""

    offset: int
    end: int
    header: Header
    payload: memoryview
    is_good: bool  # the payload's CRC holds


class Damage(NamedTuple):
    """Bytes that are no record, from `offset` to `end`."""

    offset: int
    end: int


def header_bytes(
    kind: int, key: bytes, payload: bytes | memoryview, part: int = 0, number: int = 0
) -> bytes:
    """The head of the record that holds `payload`; the two are written one after the other."""
    fields = _PACKED.pack(_FIRST[kind], part, key, number, len(payload), crc32(payload))
    return fields + crc32(fields).to_bytes(4, "little")


def header_at(data: bytes | memoryview, offset: int) -> Header | None:
    """The header that begins at `offset`, or None where there is no sound one."""
    end = offset + _FIELDS.size
    if end + _CRC.size > len(data):
        return None
    magic, version, kind, _, part, key, number, length, payload_crc = _FIELDS.unpack_from(
        data, offset
    )
    if magic != MAGIC or length > PAYLOAD_BYTES_MAX:
        return None
    if crc32(data[offset:end]) != _CRC.unpack_from(data, end)[0]:
        return None
    return Header(version, kind, part, key, number, length, payload_crc)


def scan(data: bytes, base: int = 0) -> Iterator[Found | Damage]:
    """The records and the damage in `data`, in order; offsets are counted from `-base`.

    Ends where the rest may be the beginning of a record that is not all there yet. The last
    item's `end` (`base` without items) is where to go on with more bytes.
    """
    offset, view = 0, memoryview(data)
    while offset + HEADER_BYTES <= len(data):
        header = header_at(view, offset)
        if header is None:
            end = _next_header(data, offset + 1)
            yield Damage(base + offset, base + end)
            offset = end
            continue
        end = offset + HEADER_BYTES + header.length
        if end > len(data):
            return
        payload = view[offset + HEADER_BYTES : end]
        is_good = crc32(payload) == header.payload_crc
        yield Found(base + offset, base + end, header, payload, is_good)
        offset = end


def _next_header(data: bytes, offset: int) -> int:
    """Where the next sound header begins, or the first place that one may yet begin at."""
    while (offset := data.find(MAGIC, offset)) >= 0:
        if offset + HEADER_BYTES > len(data) or header_at(data, offset) is not None:
            return offset
        offset += 1
    return len(data) - len(MAGIC) + 1
