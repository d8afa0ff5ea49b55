"""Leftovers: what an earlier owner's server left running or lying in a cluster.

Only to be ended under the owner's lock. A process is told by the directory it lives in, never by
the number in a pid file alone: that may belong to anybody by now.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

POLL_S = 0.01
KILL_S = 5.0


def end_leftovers(cluster: Path, limit_s: float) -> None:
    """End what still runs in this cluster under our lock, then remove its pid file.

    A server whose owner died, or backends whose server was killed. A stale pid file alone, whose
    number may belong to anybody by now, harms nobody.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        deadline = time.monotonic() + (KILL_S if number == signal.SIGKILL else limit_s)
        for pid in _inhabitants(cluster):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while _inhabitants(cluster) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def _inhabitants(cluster: Path) -> list[int]:
    """The processes of any server on this cluster: they never leave its directory."""
    if not Path("/proc/self/cwd").exists():
        return list(_by_pid_file(cluster))
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone, or another user's
                is_inside = (entry / "cwd").readlink() == cluster
                if is_inside and (entry / "exe").readlink().name.startswith("postgres"):
                    found.append(int(entry.name))
    return found


def _by_pid_file(cluster: Path) -> Iterator[int]:
    """Without /proc: the pid file, if that process was started on this cluster."""
    lines = read_pid_file(cluster)
    if lines and lines[0].isdigit():
        said = subprocess.run(
            ["ps", "-o", "command=", "-p", lines[0]], capture_output=True, text=True, check=False
        )
        if str(cluster) in said.stdout:
            yield int(lines[0])


def read_pid_file(cluster: Path) -> list[str]:
    try:
        return (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
