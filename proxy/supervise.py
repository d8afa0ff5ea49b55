"""Supervise: everything on one machine, each role a process that may be killed at any time.

The supervisor owns the listening sockets and the embedded database, starts gateway workers, the
recorder and the admin listener, and starts again what dies. Sockets stay open meanwhile, so an
agent that connects during a restart waits a moment and is served. Children hold one end of a pipe
whose other end only the supervisor has: when the supervisor dies, however, they see the pipe end
and stop.

The gateway comes first and waits for nothing: not for the database, not for a migration.
"""

from __future__ import annotations

import contextlib
import errno
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

from proxy.addresses import base_url, base_urls
from proxy.config import Config, split_listen
from proxy.enrich.redact import Redactor
from proxy.environment import share_metrics
from proxy.errors import ConfigError, ProxyError, StoreUnavailable
from proxy.log import configure, event, leave
from proxy.otel.installed import check_installed
from proxy.store.embedded import EmbeddedServer
from proxy.wire.upstream import upstreams_of

POLL_S, IDLE_POLL_S = 0.05, 0.5
RESTART_FIRST_S, RESTART_MAX_S = 0.05, 2.0  # no agent waits longer for a gateway
HEALTHY_S = 5.0  # a process that ran this long starts anew without a pause
STOP_RECORDER_S = 10.0
KILL_AFTER_S = 5.0


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


class Supervisor:
    """Runs `serve`, or of a sidecar the gateways and the forwarder, until SIGTERM or SIGINT."""

    def __init__(
        self, config: Config, config_path: Path | None, *, is_sidecar: bool = False
    ) -> None:
        self._config = config
        self._is_sidecar = is_sidecar
        self._config_path = config_path
        self._is_stopping = False
        self._lifeline, self._lifeline_kept = os.pipe()
        self._server = (
            None
            if config.dsn or is_sidecar
            else EmbeddedServer(config.data_dir, while_waiting=self._tend_while_database_starts)
        )
        self._woken, self._waking = socket.socketpair()
        for end in (self._woken, self._waking):
            end.setblocking(False)
        self._only: IO[bytes] | None = None
        self._database_due_at = 0.0
        self._database_fault = ""
        self._children: list[_Child] = []

    def run(self) -> None:
        """Start everything, keep it running, stop it in order. Raises ProxyError before that."""
        validate(self._config)
        prepare(self._config)
        gateway = listen(self._config.gateway.listen, "gateway.listen")
        admin = None if self._is_sidecar else listen(self._config.admin.listen, "admin.listen")
        self._only = forget_metrics(self._config)
        listener = configure(self._config.log)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # that it wakes us is all
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        try:
            self._children = list(self._roles(gateway, admin))
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

    def _roles(self, gateway: socket.socket, admin: socket.socket | None) -> Iterator[_Child]:
        for _ in range(self._config.gateway.workers):
            yield _Child("gateway", ["gateway"], gateway)
        if self._config.spool.transport == "nats":
            yield _Child("forwarder", ["forwarder"])
        if admin is not None:
            yield _Child("recorder", ["recorder"])
            yield _Child("admin", ["admin"], admin)

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
        if self._config_path:
            command += ["--config", str(self._config_path)]
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
        urls, admin = base_urls(self._config), base_url(self._config.admin.listen)
        event(
            "ready",
            base_urls=urls,
            admin=None if self._is_sidecar else admin,
            data_dir=str(self._config.data_dir),
            line="\n".join(
                [
                    "agent-telemetry is ready. Point an agent's base URL at one of:",
                    *(f"  {name:<10} {url}" for name, url in urls.items()),
                    f"  {'others':<10} {base_url(self._config.gateway.listen)}/NAME   "
                    "(see config.example.toml)",
                    "Calls go to the stream; recorders elsewhere store them."
                    if self._is_sidecar
                    else f"Watch calls arrive:  {admin}/  or  agent-telemetry tail --follow",
                ]
            ),
        )

    def _stop(self) -> None:
        """Gateways drain first, what came is moved on and stored, the database goes last."""
        event("stopping; asked again, open calls are cut")
        for child in self._children:
            if child.role == "gateway" and child.sock is not None:
                child.sock.close()  # new calls are refused at once, not left waiting
        drain_s = self._config.gateway.drain_timeout_s + KILL_AFTER_S
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
    """What is started here never sees SIGINT, though a terminal sends it to all: we stop it."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def forget_metrics(config: Config) -> IO[bytes]:
    """Drop the series of earlier runs, unless another program on this directory still writes them.

    The file returned holds the lock by which others know; keep it open.
    """
    only = (config.metrics_dir / "serve.lock").open("ab")
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(only, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for file in config.metrics_dir.glob("*.db"):
            file.unlink(missing_ok=True)
    return only


def validate(config: Config) -> None:
    """Try what only use shows: certificate files, the operator's rules. Raises ConfigError."""
    upstreams_of(config)
    Redactor(config.redaction)
    check_installed(config.otel)
    if config.spool.transport == "nats":
        from proxy.fleet.connection import validate as validate_nats

        validate_nats(config.nats)


def prepare(config: Config) -> None:
    """Make the directories this program writes. Raises ConfigError that names the key."""
    share_metrics(config)
    for key, path in (("data_dir", config.data_dir), ("spool.dir", config.spool_dir)):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = path / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"{key}: {path}: {error.strerror}; choose a directory this user can write"
            ) from None


def listen(address: str, key: str) -> socket.socket:
    """A listening, inheritable socket. Raises ConfigError that names the key and the remedy."""
    where = split_listen(address)
    try:
        sock = _unix(where) if isinstance(where, Path) else _tcp(*where)
    except OSError as error:
        reason = error.strerror or str(error)
        is_taken = error.errno == errno.EADDRINUSE
        remedy = "stop the other program or choose another port" if is_taken else "choose another"
        raise ConfigError(f"{key}: {address}: {reason}; {remedy}") from None
    sock.set_inheritable(True)
    return sock


def _tcp(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    sock.listen(1024)
    return sock


def _unix(path: Path) -> socket.socket:
    """A socket file that only this user can use; a stale one of an ended program is replaced."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if path.is_socket():
        with contextlib.suppress(ConnectionRefusedError):
            sock.connect(str(path))
            raise OSError(errno.EADDRINUSE, "another program answers there")
        path.unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    earlier = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(earlier)
    sock.listen(1024)
    return sock
