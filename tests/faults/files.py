"""Files: a shim under the spool through which every file operation can be made to fail.

Operations are numbered as they come. One of them, or all from it on, fails with a given error, or
writes only half of what it was given. The kernel is asked for the rest, so what is on the disk is
what a real fault would leave.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS, errno.EDQUOT)
SHORT = "short write"
WRITES = ("write", "writev", "pwrite")
OPENS = ("open", "scandir", "listdir", "open to read")
CHANGES = ("mkdir", "unlink", "rename", "ftruncate", "posix_fallocate", "fsync", "fdatasync")
READS = ("pread", "fstat")
OPERATIONS = (*OPENS[:3], *WRITES, *CHANGES, *READS)


def possible(name: str, fault: int | str) -> bool:
    """Whether a kernel may answer this operation so."""
    if fault == SHORT:
        return name in WRITES
    if fault == errno.EMFILE:
        return name in OPENS
    if name in READS or name in ("scandir", "listdir", "open to read"):
        return fault == errno.EIO
    return True


@dataclass
class Files:
    """`seen` names the operations so far; the one numbered `at` fails, `is_sticky`: and later."""

    fault: int | str | None = None
    at: int = -1
    is_sticky: bool = False
    seen: list[str] = field(default_factory=list)
    failed: int = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in OPERATIONS:
            patch.setattr(os, name, self._shim(name, getattr(os, name)))

    def mend(self) -> None:
        """The disk is sound from now on, once it has failed."""
        if self.failed:
            self.fault = None

    def _shim(self, name: str, real: Callable) -> Callable:
        def operation(*values, **named):
            is_reading = name == "open" and not values[1] & (os.O_WRONLY | os.O_RDWR)
            if self._pass("open to read" if is_reading else name):
                return self._write_half(name, real, *values)
            return real(*values, **named)

        return operation

    def _pass(self, name: str) -> bool:
        """Count an operation. Raises the fault, or returns whether a write is to be short."""
        number = len(self.seen)
        self.seen.append(name)
        is_due = number >= self.at if self.is_sticky else number == self.at
        if self.fault is None or not is_due or not possible(name, self.fault):
            return False
        self.failed += 1
        if self.fault == SHORT:
            return True
        raise OSError(self.fault, os.strerror(self.fault))

    @staticmethod
    def _write_half(name: str, real: Callable, fd: int, data, *where: int) -> int:
        whole = b"".join(data) if name == "writev" else bytes(data)
        half = whole[: len(whole) // 2]
        return real(fd, (half,) if name == "writev" else half, *where)
