"""Sync: a thread that makes appended records survive a power cut soon, and closes old segments.

What a process has written survives the process; only a crash of the system can take it. So nothing
waits for the disk: `fdatasync` runs here, 20 ms after the first append since the last one. Whoever
wants to wait all the same is told by `call_when_synced`, many at once.
Descriptors are closed by this thread only, so it never syncs a number that was given anew.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread

BUSY_S = 0.05  # a sync takes about a millisecond,
SLOW_BYTES_PER_S = 50e6  # and a slow disk needs this much more where there is much to write


class SyncThread:
    """Owned by one writer; all methods are called from that writer's thread."""

    def __init__(self, slot: Path, pause_s: float) -> None:
        self._slot = slot
        self._pause_s = pause_s
        self._fd: int | None = None
        self._retired: deque[int] = deque()
        self._told: deque[Callable[[], object]] = deque()
        self.is_dirty = False  # something was appended, and `wake` was called
        self._is_new_file = False
        self._wakes: SimpleQueue[None] = SimpleQueue()  # unlike an Event, one call each in C
        self._is_closing = False
        self._until_closing = Lock()
        self._until_closing.acquire()
        self.has_failed = False
        self.syncing_since: float | None = None  # None: the disk is not at a sync
        self._patience_s = BUSY_S
        self._synced_bytes = 0  # of the current segment
        self._thread = Thread(target=self._run, name="spool-sync", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether the disk has been at one sync for longer than it should: appends may hang next.

        That is 50 ms, and more after hundreds of large bodies in a moment, which is no fault.
        """
        since = self.syncing_since
        return since is not None and time.monotonic() - since > self._patience_s

    def wake(self) -> None:
        """Something was appended."""
        if not self.is_dirty:
            self.is_dirty = True
            self._wakes.put(None)

    def call_when_synced(self, tell: Callable[[], object]) -> None:
        """Once what was appended so far has been synced, or could not be: in the thread."""
        self._told.append(tell)
        self.wake()

    def follow(self, fd: int) -> None:
        """From now on this segment is written."""
        self._fd, self._is_new_file, self.has_failed = fd, True, False
        self._synced_bytes = 0
        self.wake()

    def retire(self, fd: int) -> None:
        """No more is written to this segment: sync it a last time and close it."""
        self._fd = None
        self._retired.append(fd)
        self.wake()

    def close(self) -> None:
        """Sync and close what is open, and end the thread."""
        self._is_closing = True
        self._until_closing.release()
        self._wakes.put(None)
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closing:
            self._wakes.get()
            self._until_closing.acquire(timeout=self._pause_s)
            self.is_dirty = False  # before the sync: what is appended from here on wakes again
            self._sync()
        self._sync()

    def _sync(self) -> None:
        told = [self._told.popleft() for _ in range(len(self._told))]
        self._patience_s = BUSY_S + self._unsynced_bytes() / SLOW_BYTES_PER_S
        self.syncing_since = time.monotonic()
        self._sync_all()
        self.syncing_since = None
        for tell in told:
            with contextlib.suppress(RuntimeError):  # its event loop is closed
                tell()

    def _unsynced_bytes(self) -> int:
        """What was appended to the current segment since it was last synced."""
        fd = self._fd
        if fd is None:
            return 0
        before = self._synced_bytes
        with contextlib.suppress(OSError):  # the sync will say what is wrong
            self._synced_bytes = os.fstat(fd).st_size
        return max(0, self._synced_bytes - before)

    def _sync_all(self) -> None:
        while self._retired:
            fd = self._retired.popleft()
            with contextlib.suppress(OSError):
                os.fdatasync(fd)
            os.close(fd)
        if self._is_new_file:
            self._is_new_file = False
            self._sync_directory()
        fd_now = self._fd
        if fd_now is None:
            return
        try:
            os.fdatasync(fd_now)
        except OSError:
            # After a failed sync the kernel may call lost pages clean: a second try on the same
            # file proves nothing, so the writer begins a new one.
            self.has_failed = True

    def _sync_directory(self) -> None:
        with contextlib.suppress(OSError):
            fd = os.open(self._slot, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
