"""Supervise: everything on one machine, each role a process that may be killed at any time.

The supervisor owns the listening sockets and the embedded database, starts gateway workers, the
recorder and the admin listener, and starts again what dies. Sockets stay open meanwhile, so an
agent that connects during a restart waits a moment and is served. Children hold one end of a pipe
whose other end only the supervisor has: when the supervisor dies, however, they see the pipe end
and stop.

The gateway comes first and waits for nothing: not for the database, not for a migration.

A supervisor lives as long as the program and does next to nothing, so it is small: what it imports
is named in tests/foundation/test_supervisor.py, and no configuration is read here.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from proxy.errors import ProxyError, StoreUnavailable
from proxy.log import configure, event, leave
from proxy.plan import Plan
from proxy.store.embedded import EmbeddedServer

POLL_S, IDLE_POLL_S = 0.05, 0.5
RESTART_FIRST_S, RESTART_MAX_S = 0.05, 2.0  # no agent waits longer for a gateway
HEALTHY_S = 5.0  # a process that ran this long starts anew without a pause
STOP_RECORDER_S = 10.0
KILL_AFTER_S = 5.0
_PR_SET_NAME = 15  # linux/prctl.h


@dataclass(slots=True)
class _Child:
    """One supervised process and when it may be started next."""

    role: str
    arguments: list[str]
    sock: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_s: float = RESTART_FIRST_S
    due_at: float = field(default=0.0)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None


def supervise(plan: str) -> None:
    """Run what a plan says, as JSON, until SIGTERM, SIGINT or SIGHUP."""
    read = Plan.from_json(plan)
    _take_name(read.process_name)
    Supervisor(read).run()


class Supervisor:
    """Runs `serve`, or of a sidecar the gateways and the forwarder, until it is asked to stop."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._is_stopping = False
        self._lifeline, self._lifeline_kept = os.pipe()
        self._server = (
            EmbeddedServer(Path(plan.data_dir), while_waiting=self._tend_while_database_starts)
            if plan.has_database
            else None
        )
        self._woken, self._waking = socket.socketpair()
        for end in (self._woken, self._waking):
            end.setblocking(False)
        self._only: IO[bytes] | None = None
        self._database_due_at = 0.0
        self._database_fault = ""
        self._children: list[_Child] = []

    def run(self) -> None:
        """Start everything, keep it running, stop it in order."""
        self._only = forget_metrics(Path(self._plan.metrics_dir))
        listener = configure(self._plan.log)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
            signal.signal(signal.SIGHUP, self._on_hangup)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # that it wakes us is all
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        try:
            self._children = list(self._roles())
            self._watch()
        finally:
            self._stop()
            leave(listener)

    def _on_signal(self, number: int, frame: object) -> None:
        """Stop; asked a second time, have gateways cut what they wait for."""
        if self._is_stopping:
            for child in self._children:
                if child.role == "gateway" and child.process is not None and child.is_running:
                    child.process.send_signal(signal.SIGTERM)
        self._is_stopping = True

    def _on_hangup(self, number: int, frame: object) -> None:
        """The terminal is gone. Both it and its shell may say so, so twice is not twice asked."""
        self._is_stopping = True

    def _roles(self) -> Iterator[_Child]:
        gateway = socket.socket(fileno=self._plan.gateway_fd)
        for _ in range(self._plan.workers):
            yield _Child("gateway", ["gateway"], gateway)
        if self._plan.has_forwarder:
            yield _Child("forwarder", ["forwarder"])
        if self._plan.admin_fd is not None:
            yield _Child("recorder", ["recorder"])
            yield _Child("admin", ["admin"], socket.socket(fileno=self._plan.admin_fd))

    def _watch(self) -> None:
        """Keep every process running. The database starts after the first round of processes."""
        for child in self._children:
            self._start(child)
        self._announce()
        while not self._is_stopping:
            self._keep_database()
            self._tend()
            self._wait()

    def _wait(self) -> None:
        """Until a child ends, a signal comes, or a while has passed; short while one is due."""
        is_due = any(not child.is_running for child in self._children)
        select.select([self._woken], [], [], POLL_S if is_due else IDLE_POLL_S)
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)

    def _tend(self) -> None:
        for child in self._children:
            if not child.is_running:
                self._revive(child)

    def _tend_while_database_starts(self) -> None:
        """No gateway waits for a recovery, and neither does the one who asks us to stop."""
        if self._is_stopping:
            raise StoreUnavailable("asked to stop")
        self._tend()

    def _keep_database(self) -> None:
        """Have the database run. Calls wait in the spool meanwhile, so it is tried for ever."""
        server, now = self._server, time.monotonic()
        if server is None or now < self._database_due_at or server.is_running:
            return
        try:
            server.start()
        except ProxyError as error:
            if str(error) != self._database_fault and not self._is_stopping:
                event("embedded database does not start", logging.ERROR, reason=str(error))
            self._database_fault = str(error)
            self._database_due_at = now + RESTART_MAX_S
        else:
            self._database_fault = ""

    def _start(self, child: _Child) -> None:
        fds = [self._lifeline]
        command = [sys.executable, "-m", "proxy", *child.arguments]
        command += ["--lifeline", str(self._lifeline)]
        if self._plan.config_path:
            command += ["--config", self._plan.config_path]
        if child.sock is not None:
            command += ["--fd", str(child.sock.fileno())]
            fds.append(child.sock.fileno())
        with _interrupts_held():
            child.process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
        child.started_at = time.monotonic()

    def _revive(self, child: _Child) -> None:
        """Start a process again: at once where it ran for long, else with growing pauses."""
        now = time.monotonic()
        if child.process is not None:
            if now - child.started_at > HEALTHY_S:
                child.pause_s = RESTART_FIRST_S
            event(
                "process ended; starting it again",
                logging.WARNING,
                role=child.role,
                exit_code=child.process.returncode,
            )
            child.process = None
            child.due_at = now + child.pause_s
            child.pause_s = min(RESTART_MAX_S, child.pause_s * 2)
        if now >= child.due_at:
            self._start(child)

    def _announce(self) -> None:
        plan = self._plan
        event(
            "ready",
            base_urls=plan.base_urls,
            admin=plan.admin_url,
            data_dir=plan.data_dir,
            line="\n".join(
                [
                    "agent-telemetry is ready. Point an agent's base URL at one of:",
                    *(f"  {name:<10} {url}" for name, url in plan.base_urls.items()),
                    f"  {'others':<10} {plan.gateway_url}/NAME   (see config.example.toml)",
                    "Calls go to the stream; recorders elsewhere store them."
                    if plan.admin_url is None
                    else f"Watch calls arrive:  {plan.admin_url}/  or  "
                    "agent-telemetry tail --follow",
                ]
            ),
        )

    def _stop(self) -> None:
        """Gateways drain first, what came is moved on and stored, the database goes last."""
        event("stopping; asked again, open calls are cut")
        for child in self._children:
            if child.role == "gateway" and child.sock is not None:
                child.sock.close()  # new calls are refused at once, not left waiting
        drain_s = self._plan.drain_timeout_s + KILL_AFTER_S
        self._end("gateway", drain_s)
        self._end("forwarder", STOP_RECORDER_S)
        self._end("recorder", STOP_RECORDER_S)
        self._end("admin", KILL_AFTER_S)
        if self._server is not None:
            self._server.stop()
        os.close(self._lifeline_kept)

    def _end(self, role: str, seconds: float) -> None:
        processes = [c.process for c in self._children if c.role == role and c.process]
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                event("process does not stop; killing it", logging.WARNING, role=role)
                process.kill()
                process.wait()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """What is started here never sees what a terminal sends to all: we stop it."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGHUP])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def forget_metrics(directory: Path) -> IO[bytes]:
    """Drop the series of earlier runs, unless another program on this directory still writes them.

    The file returned holds the lock by which others know; keep it open.
    """
    only = (directory / "serve.lock").open("ab")
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(only, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for file in directory.glob("*.db"):
            file.unlink(missing_ok=True)
    return only


def _take_name(name: str) -> None:
    """Be called as before by `ps` and `pkill`. Linux only."""
    if sys.platform == "linux" and name:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
