"""Resubmitted: which calls of a spool were set aside and have been stored since.

Each slot has a file of their ids, 16 bytes each, that only grows. Who resubmits notes a call
between storing its row and taking it out of the quarantine. So after a kill it is tried again, and
counted once: an id that is there is not written again. The recorder's own files are only read.

A call counts where a journal says that this spool set it aside; of a spool on another machine it
cannot be known here. What cannot be noted stays in the quarantine. A call that is resubmitted in
the instant between its copy and its entry in the journal, or while its socket is open, goes on
counting as quarantined.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from proxy.errors import SpoolUnusable
from proxy.spool import slot
from proxy.spool.journal import open_to_read, set_aside_behind

_REMEDY = "resubmit as the user that the recorder runs as, with room on the disk"


class ResubmittedCalls:
    """The spool at `root`, for one process at a time. Everything raises SpoolUnusable."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock: int | None = None
        self._slots: dict[int, _Slot] = {}
        try:
            self._lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return  # whatever was set aside is of other machines
        except BlockingIOError:
            self._close()
            raise SpoolUnusable(
                f"{root}: another resubmit is under way; wait for its end"
            ) from None
        except OSError as error:
            self._close()
            raise SpoolUnusable(f"{root}: {error.strerror}; {_REMEDY}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def note(self, id: UUID) -> None:
        """This call is stored now. No more than once is it counted."""
        for number in slot.slots(self._root):
            path = self._root / str(number)
            try:
                if number not in self._slots:
                    self._slots[number] = _Slot(path)
                if self._slots[number].note(id.bytes):
                    return
            except OSError as error:
                raise SpoolUnusable(f"{path}: {error.strerror}; {_REMEDY}") from error

    def _close(self) -> None:
        for each in self._slots.values():
            each.close()
        self._slots.clear()
        if self._lock is not None:
            os.close(self._lock)


class _Slot:
    """One slot. Everything raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._set_aside: set[bytes] = set()
        self._journal: int | None = None  # open, so that no other file gets its number
        self._read_to = 0
        self._noted: set[bytes] = set()

    def note(self, key: bytes) -> bool:
        """Whether the call is of this slot."""
        if key not in self._set_aside:
            self._look()
        if key not in self._set_aside:
            return False
        if self._fd is None:
            self._fd = _open(self._path / slot.RESUBMITTED)
            self._noted = _noted(self._fd)
        if key not in self._noted:
            if os.pwrite(self._fd, key, slot.ID_BYTES * len(self._noted)) < slot.ID_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._fd)
            self._noted.add(key)
        return True

    def close(self) -> None:
        self._close_journal()
        if self._fd is not None:
            os.close(self._fd)

    def _look(self) -> None:
        """Read what the journal has more than before: a recorder may write one of any length."""
        try:
            status = (self._path / slot.ACKS).lstat()
            if self._journal is None or status.st_ino != os.fstat(self._journal).st_ino:
                journal = open_to_read(self._path)
                self._close_journal()
                self._journal, self._read_to = journal, 0
        except FileNotFoundError:
            return
        found, self._read_to = set_aside_behind(self._journal, self._read_to)
        self._set_aside |= found

    def _close_journal(self) -> None:
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None


def _open(path: Path) -> int:
    """The file, of the owner of its directory whoever makes it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    owner = path.parent.stat()
    if os.geteuid() == 0 and os.fstat(fd).st_uid != owner.st_uid:
        os.fchown(fd, owner.st_uid, owner.st_gid)
    return fd


def _noted(fd: int) -> set[bytes]:
    """The ids in the file. What a power cut left of one at its end is taken away."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    whole = len(data) - len(data) % slot.ID_BYTES
    while whole and not any(data[whole - slot.ID_BYTES : whole]):
        whole -= slot.ID_BYTES
    if whole < len(data):
        os.ftruncate(fd, whole)
    return {data[at : at + slot.ID_BYTES] for at in range(0, whole, slot.ID_BYTES)}
