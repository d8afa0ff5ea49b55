"""Processes: what a process tree has cost, from `/proc`. Linux only.

CPU time is the scheduler's own account in nanoseconds for threads that live, and in ticks of 10 ms
for those that have ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> Iterator[int]:
    """The process and all it has begun, directly or not."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))


def command(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds of CPU that these processes, and the children they have reaped, took so far."""
    return sum(map(_cpu_s, pids))


def _cpu_s(pid: int) -> float:
    living_ns = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                living_ns += int((task / "schedstat").read_text().split()[0])
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, system, reaped_user, reaped_system = map(int, fields[11:15])
        own_s = max(living_ns / 1e9, (user + system) / _TICKS)
        return own_s + (reaped_user + reaped_system) / _TICKS
    return living_ns / 1e9


def pss_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes; what several share is divided among them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total
