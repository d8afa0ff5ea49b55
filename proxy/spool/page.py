"""Page: a fixed number of counters in one small file that is there before it is needed.

    +-----------+-------+------------------------------+-----+
    | magic 8 B | n u32 | n counters, u64 each         | CRC |  then zeros up to 4096 bytes
    +-----------+-------+------------------------------+-----+

All of it is written at once, in place, so that counting works on a full disk and survives kill -9.
Not a memory map: a map raises SIGBUS where the file was cut or a copy-on-write file system is full,
and one `pwrite` costs a microsecond. The CRC tells a reader in another process that it looked in
the middle of a write; it looks again. New counters come last; a shorter page reads as zeros there.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from zlib import crc32

PAGE_BYTES = 4096
_MAGIC = b"ATpage\x00\x01"
_HEAD = struct.Struct("<8sI")
_CRC = struct.Struct("<I")
_COUNTERS_MAX = 256
_LOOKS_MAX = 8


class Page:
    """The page at `path`, open for writing. Its first creation needs disk space; raises OSError."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        if os.fstat(self._fd).st_size < PAGE_BYTES:
            self._fill()

    def write(self, counters: Sequence[int]) -> None:
        """Raises OSError, also where not all was written: then nobody can read it for now."""
        data = pack(counters)
        if os.pwrite(self._fd, data, 0) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        os.close(self._fd)

    def _fill(self) -> None:
        try:
            if os.pwrite(self._fd, bytes(PAGE_BYTES), 0) < PAGE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._fd)
        except OSError:
            os.close(self._fd)
            raise


def pack(counters: Sequence[int]) -> bytes:
    body = _body(len(counters)).pack(_MAGIC, len(counters), *counters)
    return body + _CRC.pack(crc32(body))


@cache
def _body(count: int) -> struct.Struct:
    return struct.Struct(f"{_HEAD.format}{count}Q")


def unpack(data: bytes) -> tuple[int, ...] | None:
    """The counters, or None where the bytes are no whole page."""
    if len(data) < _HEAD.size:
        return None
    magic, count = _HEAD.unpack_from(data)
    end = _HEAD.size + 8 * count
    if magic != _MAGIC or count > _COUNTERS_MAX or len(data) < end + _CRC.size:
        return None
    if crc32(data[:end]) != _CRC.unpack_from(data, end)[0]:
        return None
    return struct.unpack_from(f"<{count}Q", data, _HEAD.size)


def read_page(path: Path) -> tuple[int, ...] | None:
    """The counters of the page at `path`; None where there is none or it is damaged."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        for _ in range(_LOOKS_MAX):
            counters = unpack(os.pread(fd, PAGE_BYTES, 0))
            if counters is not None:
                return counters
    except OSError:
        return None
    finally:
        os.close(fd)
    return None
