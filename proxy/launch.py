"""Launch: what `serve` and a sidecar do before they supervise.

Everything that can be wrong is tried and said here, where the libraries for it are loaded. Of
these a supervisor needs none: the process replaces itself by one that has a plan and the sockets,
with its number and command line (`proxy/__main__.py` tells the two apart), in a third of the
memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from proxy.addresses import base_url, base_urls
from proxy.config import Config, split_listen
from proxy.enrich.redact import Redactor
from proxy.environment import hand_over, located, share_metrics
from proxy.errors import ConfigError
from proxy.otel.installed import check_installed
from proxy.plan import LogPlan, Plan
from proxy.wire.upstream import upstreams_of


def launch(config: Config, config_path: Path | None, *, is_sidecar: bool = False) -> NoReturn:
    """Become the supervisor of `serve`, or of a sidecar. Raises ProxyError before that."""
    validate(config, config_path)
    prepare(config)
    gateway = listen(config.gateway.listen, "gateway.listen")
    admin = None if is_sidecar else listen(config.admin.listen, "admin.listen")
    plan = Plan(
        process_name=_process_name(),
        config_path=str(config_path) if config_path else None,
        data_dir=str(config.data_dir),
        metrics_dir=str(config.metrics_dir),
        has_database=config.dsn is None and not is_sidecar,
        has_forwarder=config.spool.transport == "nats",
        workers=config.gateway.workers,
        drain_timeout_s=config.gateway.drain_timeout_s,
        gateway_fd=gateway.fileno(),
        admin_fd=admin.fileno() if admin else None,
        base_urls=base_urls(config),
        gateway_url=base_url(config.gateway.listen),
        admin_url=base_url(config.admin.listen) if admin else None,
        log=LogPlan(config.log.format, config.log.level),
    )
    hand_over(plan.as_json())
    os.execv(sys.executable, sys.orig_argv)


def _process_name() -> str:
    """The name that `ps` and `pkill` know: of a script its own, which execv would take away."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path("/proc/self/comm").read_text().rstrip("\n")
    return ""


def validate(config: Config, path: Path | None) -> None:
    """Try what only use shows: certificate files, the operator's rules.

    Raises ConfigError that names the file, `path`, or the variable.
    """
    try:
        _validate(config)
    except ConfigError as error:
        raise located(error, path) from None


def _validate(config: Config) -> None:
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
