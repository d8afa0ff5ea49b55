"""Asleep: tells a thread that a device holds up from one that merely waits for a processor.

A thread in a call that the disk does not answer sleeps, and sleeps on. One for which a busy machine
has no processor is ready to run, and one that waits for the interpreter's lock wakes every few
milliseconds. Linux counts how often a thread went to sleep; where nothing is told (elsewhere, or
without /proc), a thread is taken for asleep.
"""

from __future__ import annotations

import time
from pathlib import Path

_RUNS = (b"R", b"0")


class Watch:
    """How long one thread has been asleep, as far as looks from time to time can tell."""

    def __init__(self, thread_id: int | None) -> None:
        self._path = Path(f"/proc/self/task/{thread_id}/status")
        self._seen = _RUNS
        self._since = time.monotonic()

    def asleep_s(self) -> float:
        """Seconds that are known of its present sleep: since the first look that met it."""
        now, seen = time.monotonic(), self._look()
        if seen[0] == b"R" or seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since

    def _look(self) -> tuple[bytes, bytes]:
        """Its state, and how often it went to sleep."""
        try:
            told = self._path.read_bytes()
        except OSError:
            return b"?", b"?"
        _, _, state = told.partition(b"\nState:\t")
        _, _, sleeps = told.partition(b"\nvoluntary_ctxt_switches:\t")
        return state[:1], sleeps.partition(b"\n")[0]
