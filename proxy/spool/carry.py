"""Carry: the records of a call that stays open long, copied out of the segments it would pin.

One file per such call, `<id in hex>.call` in its slot, in the segments' format. It is appended to
each time the call has fallen some segments behind, synced before the segments are let go, and
deleted when the call is settled. After a crash some records may lie in both places: the `part` of a
record tells which were carried.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from proxy.spool.segment import Found, Header, header_bytes
from proxy.spool.segment_file import FILE_BYTES_MAX, open_regular, walk

_NAME = re.compile(r"([0-9a-f]{32})\.call")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def carried_path(slot: Path, key: bytes) -> Path:
    return slot / f"{key.hex()}.call"


def carried_keys(slot: Path) -> list[bytes]:
    """The calls that have a file here."""
    try:
        names = sorted(os.listdir(slot))
    except OSError:
        return []
    return [bytes.fromhex(match[1]) for name in names if (match := _NAME.fullmatch(name))]


def carry(
    slot: Path, key: bytes, offset: int, records: Iterable[tuple[Header, bytes] | None]
) -> int:
    """Write the records at `offset` of the call's file; returns where they end.

    Raises OSError, with what was there before `offset` as it was.
    """
    fd = os.open(carried_path(slot, key), _FLAGS, 0o600)
    try:
        os.ftruncate(fd, offset)
        for header, payload in filter(None, records):
            head = header_bytes(header.kind, key, payload, part=header.part, number=header.number)
            record = head + payload
            if os.pwrite(fd, record, offset) < len(record):
                raise OSError("a carried record was written short")
            offset += len(record)
        os.fdatasync(fd)
    finally:
        os.close(fd)
    return offset


def carried(slot: Path, key: bytes, offset: int = 0, end: int = FILE_BYTES_MAX) -> Iterator[Found]:
    """The sound records of the call's file from `offset` to `end`. Raises OSError.

    What lies behind `end` was left by a carrying that failed, and lies in the segments too.
    """
    with open_regular(carried_path(slot, key)) as file:
        for item in walk(file.fileno(), offset):
            if item.end > end:
                return
            if isinstance(item, Found) and item.is_good and item.header.key == key:
                yield item
