"""Reserve: disk space that a writer holds back, so that a full disk still takes heads and ends.

A file of the slot that is as long as the space it stands for. When the disk takes nothing more the
file is cut to nothing, and what that frees is for the small records: a call on a full disk has its
row, without bodies. Only when that is used up too are calls lost. The reserve is taken again once
there is room for several times its size, so that it does not come and go with every segment.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

RESERVE_BYTES = 1024 * 1024  # heads and ends of a thousand calls
ROOM_FACTOR = 4  # of its size must be free before it is taken


class Reserve:
    """The reserve at `path`. Nothing here raises: without a reserve a full disk is found sooner."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._size = size_bytes
        self._fd = -1
        self.is_held = False
        self.is_spent = False  # given away and not yet taken again
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.suppress(OSError):
            self._fd = os.open(path, flags, 0o600)
            self.is_held = os.fstat(self._fd).st_size == size_bytes
        self.hold()

    def hold(self) -> bool:
        """Take the space if there is enough; whether it is held."""
        if self.is_held or self._fd < 0:
            return self.is_held
        try:
            disk = os.fstatvfs(self._fd)
            if disk.f_bavail * disk.f_frsize < ROOM_FACTOR * self._size:
                return False
            self._fill()
        except OSError:
            self._empty()
            return False
        self.is_held, self.is_spent = True, False
        return True

    def release(self) -> bool:
        """Give the space away; whether there was any."""
        if not self.is_held:
            return False
        self._empty()
        self.is_held, self.is_spent = False, True
        return True

    def close(self) -> None:
        """The slot's next writer takes its own."""
        if self._fd >= 0:
            self._empty()
            os.close(self._fd)
            self._fd = -1

    def _fill(self) -> None:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._fd, 0, self._size)
        elif os.pwrite(self._fd, bytes(self._size), 0) < self._size:  # macOS
            raise OSError("no room for the reserve")

    def _empty(self) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
