"""Segment file: reading a segment from disk, whoever may still be writing it."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from proxy.spool.segment import RECORD_BYTES_MAX, Damage, Found, scan
from proxy.spool.slot import segment_path

CHUNK_BYTES = 256 * 1024
FOR_NOW = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # tried again for ever
NOT_SOON = frozenset(
    {None, errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM}
)  # None: found by our own checks
READ_TRIES_MAX = 100  # of a place that the disk does not give back, a few seconds in all
FILE_BYTES_MAX = 2**32  # offsets have 32 bits; what lies behind is not looked at


def open_segment(slot: Path, number: int) -> io.FileIO:
    """The segment, unbuffered. Raises OSError, also where it is a link or no regular file."""
    return open_regular(segment_path(slot, number))


def open_regular(path: Path) -> io.FileIO:
    """The file, unbuffered, for reading. Raises OSError, also where it is no regular file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path.name} is no regular file")
    return io.FileIO(fd)


def walk(fd: int, offset: int = 0) -> Iterator[Found | Damage]:
    """Records and damage from `offset` to the last whole record there is now. Raises OSError."""
    size = CHUNK_BYTES
    while offset < FILE_BYTES_MAX:
        data = os.pread(fd, size, offset)
        before = offset
        for item in scan(data, offset):
            offset = item.end
            yield item
        if offset > before:
            size = CHUNK_BYTES
        elif len(data) == CHUNK_BYTES == size:
            size = RECORD_BYTES_MAX  # one record larger than a chunk
        else:
            return
