"""Embedded: a PostgreSQL of our own in the data directory, a direct child of its owner.

    data_dir/owner.lock      flock: whoever holds it owns the server; others only connect
    data_dir/postgres/       the cluster and its socket
    data_dir/postgres.new*/  a cluster that is being made; renamed when it is whole
    data_dir/postgres.log    what the server says, without statements and values

The server ends when its owner does, however that ends (Linux: PR_SET_PDEATHSIG; elsewhere the
next owner ends it). It listens on a Unix socket in the cluster's directory only, which is closed
to other users. PostgreSQL does not run as root: there it runs as `postgres` or `nobody`, which then
own the cluster. So that no directory above has to be opened to that user, the server starts inside
of the cluster and calls it /proc/self/cwd.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from proxy.errors import ProxyError, StoreMisconfigured, StoreUnavailable
from proxy.store import binaries
from proxy.store.leftovers import end_leftovers, read_pid_file

NAME = "agent_telemetry"  # of the database and of its superuser
PORT = 5432  # only part of the socket's file name
START_S = 60.0  # recovery after a crash included
STOP_S = 20.0
POLL_S = 0.01
_NEW = "postgres.new"
SOCKET_PATH_MAX = 100  # sun_path holds 104 bytes on macOS, 108 on Linux, with the final NUL
LOG_BYTES_MAX = 1024 * 1024  # checked at each start; the server says next to nothing
# Not PG*, which is meant for other servers, and none of the keys that may stand in ours.
_ENVIRONMENT = {"PATH", "HOME", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"}
_STAYS_INSIDE = 16  # the first major version that does not resolve its own path by chdir
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_Account = tuple[int, int]  # user and group

# For one machine, also a small container: /dev/shm has 64 MB there, and parallel workers would
# fill it. One writer and a few readers need no more connections. Nothing of a row goes to the log.
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "max_connections": "40",
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}


def dsn(data_dir: Path) -> str:
    """The connection string of the server in `data_dir`, whether or not it runs."""
    where = quote(str(_socket_dir(_cluster(data_dir))), safe="/")
    return f"postgresql://{NAME}@/{NAME}?host={where}&port={PORT}"


class EmbeddedServer:
    """Owns the server of one data directory, or waits until it may.

    Synchronous and blocking. Call it from the main thread: the server ends with the thread that
    started it. `settings` are further settings of PostgreSQL. A start can take as long as a
    recovery does: `while_waiting` is called again and again meanwhile, and may raise to end it.
    """

    def __init__(
        self,
        data_dir: Path,
        settings: dict[str, str] | None = None,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._data_dir = data_dir.resolve()
        self._cluster = _cluster(data_dir)
        self._settings = _SETTINGS | (settings or {})
        self._while_waiting = while_waiting
        self._lock: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_owner(self) -> bool:
        """Whether this object, not another process, is responsible for the server."""
        return self._lock is not None

    @property
    def is_running(self) -> bool:
        """Whether the server runs, here or under another owner. False: call `start`.

        Where the other owner is gone, this object becomes the owner.
        """
        try:
            if not self._try_lock():
                return True
        except OSError:  # `start` says what is wrong with the directory
            return False
        return self.poll() is None and self._process is not None

    @property
    def pid(self) -> int | None:
        """The server's process, where it is ours and was started."""
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """How the server ended; None while it runs or where it was never started."""
        return self._process.poll() if self._process else None

    def start(self) -> str:
        """Have the server run and return its connection string.

        Where another process owns it, nothing is started. Raises StoreMisconfigured (no fitting
        PostgreSQL, a directory that cannot be used) or StoreUnavailable (it does not come up).
        """
        with _named(self._data_dir):
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._try_lock() and not self.is_running:
                try:
                    self._start()
                except BaseException:
                    self.stop()
                    raise
        return dsn(self._data_dir)

    def restart(self) -> str:
        """End the server, if it still runs, and start it again."""
        if self.is_owner:
            self._end()
        return self.start()

    def stop(self) -> None:
        """End the server and give up ownership. Another owner's server is left alone."""
        if self._lock is not None:
            self._end()
            _unlink_socket(self._cluster)
            self._lock.close()
            self._lock = None

    def _try_lock(self) -> bool:
        if self._lock is not None:
            return True
        file = (self._data_dir / "owner.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._lock = file
        return True

    def _start(self) -> None:
        account = _account(self._cluster)
        found = binaries.find(major=_cluster_major(self._cluster), for_others=account is not None)
        end_leftovers(self._cluster, STOP_S)
        for half_made in self._data_dir.glob(f"{_NEW}*"):
            shutil.rmtree(half_made, ignore_errors=True)  # what is still written goes next time
        if not self._cluster.exists():
            _create(self._cluster, found, account)
        elif account is not None and self._cluster.stat().st_uid != account[0]:
            _give(self._cluster, account)
        _link_socket(self._cluster)
        where = _seen_inside(self._cluster, found, account)
        with _opened_log(self._data_dir / "postgres.log") as log:
            settings = [f"-c{name}={value}" for name, value in self._settings.items()]
            self._process = subprocess.Popen(
                [found.directory / "postgres", "-D", where, *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent(),
                process_group=0,  # a terminal's SIGINT would stop it first, and it goes last
                **_as_account(self._cluster, account),
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        """Until the server's own pid file says so, as pg_ctl does."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.poll() is not None:
                raise StoreUnavailable(f"PostgreSQL ended: {_last_line(self._data_dir)}")
            lines = read_pid_file(self._cluster)
            if len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready":
                return
            self._while_waiting()
            time.sleep(POLL_S)
        self._end()
        raise StoreUnavailable(f"PostgreSQL is not ready after {START_S:.0f} s")

    def _end(self) -> None:
        """Fast shutdown (SIGINT), else at once (SIGQUIT: recovery at the next start), else kill."""
        if self._process is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_S)
        self._process = None


def _cluster(data_dir: Path) -> Path:
    return data_dir.resolve() / "postgres"


def _cluster_major(cluster: Path) -> int | None:
    try:
        return int((cluster / "PG_VERSION").read_text().strip())
    except (FileNotFoundError, ValueError):
        return None


def _account(cluster: Path) -> _Account | None:
    """The user PostgreSQL runs as where we are root; None: our own.

    That of a cluster that is already there, which may be an ordinary user's.
    """
    if os.geteuid() != 0:
        return None
    if cluster.exists() and cluster.stat().st_uid != 0:
        return cluster.stat().st_uid, cluster.stat().st_gid
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return found.pw_uid, found.pw_gid
    raise StoreMisconfigured(
        "PostgreSQL does not run as root, and there is no user postgres or nobody: "
        "run agent-telemetry as an ordinary user"
    )


def _give(directory: Path, account: _Account) -> None:
    """Make the user the owner of everything in a directory, such as a volume that was copied."""
    for path in (directory, *directory.rglob("*")):
        os.chown(path, *account, follow_symlinks=False)


def _as_account(directory: Path, account: _Account | None) -> dict[str, Any]:
    """Arguments of subprocess: in this directory, as that user, without our secrets."""
    environ = {name: text for name, text in os.environ.items() if name in _ENVIRONMENT}
    arguments: dict[str, Any] = {
        "cwd": directory,
        "env": environ | {"LC_ALL": "C"},
        "umask": 0o077,
    }
    if account is not None:
        arguments |= {"user": account[0], "group": account[1], "extra_groups": []}
    return arguments


def _seen_inside(cluster: Path, found: binaries.Binaries, account: _Account | None) -> str:
    """What the server calls its directory.

    Another user need not reach it by its path: it starts inside. PostgreSQL before 16 leaves the
    directory for a moment, so there, and without /proc, the path has to be open to that user.
    """
    if account is None:
        return str(cluster)
    if found.major >= _STAYS_INSIDE and Path("/proc/self/cwd").exists():
        return "/proc/self/cwd"
    cluster.parent.chmod(cluster.parent.stat().st_mode | 0o001)
    if not binaries.is_open_to_others(cluster.parent):
        raise StoreMisconfigured(
            f"data_dir: {cluster.parent}: PostgreSQL {found.major} does not run as root, and a "
            "directory above is closed to other users: choose another data_dir"
        )
    return str(cluster)


def _create(cluster: Path, found: binaries.Binaries, account: _Account | None) -> None:
    """Make a cluster with our database in it, under another name until it is whole.

    The name is new each time: the children of an owner that was killed may still write for a
    moment, and initdb clears the directory that it was told when it is interrupted.
    """
    new = Path(tempfile.mkdtemp(prefix=_NEW, dir=cluster.parent))
    if account is not None:
        os.chown(new, *account)
    where = _seen_inside(new, found, account)
    options = ["--auth=trust", "--encoding=UTF8", "--no-locale", "--data-checksums"]
    _run(found.directory / "initdb", ["-D", where, "-U", NAME, *options], new, account)
    single = ["--single", "-D", where, "postgres"]
    _run(found.directory / "postgres", single, new, account, f"CREATE DATABASE {NAME}\n")
    new.rename(cluster)


def _run(
    program: Path, arguments: list[str], directory: Path, account: _Account | None, text: str = ""
) -> None:
    said = subprocess.run(
        [program, *arguments],
        input=text,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=START_S,
        preexec_fn=_end_with_parent(),
        **_as_account(directory, account),
    )
    if said.returncode:
        reason = (said.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StoreMisconfigured(f"{program.name} failed in {directory}: {reason}")


def _end_with_parent() -> Callable[[], None] | None:
    """What the child does before it becomes PostgreSQL, after it gave up root. Linux only.

    The library is loaded here, before the fork: the child calls one function and nothing else.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def set_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return set_signal


def _socket_dir(cluster: Path) -> Path:
    """The cluster, or a short link to it where the socket's path would be too long.

    So it is where a comma would part the path into the names of two hosts.

    Raises StoreMisconfigured where somebody else has put something else there.
    """
    is_short = len(os.fsencode(cluster / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_MAX
    if is_short and "," not in str(cluster):
        return cluster
    import hashlib  # brings OpenSSL, for which a supervisor has no other use

    digest = hashlib.sha256(os.fsencode(cluster)).hexdigest()[:16]
    link = Path("/tmp") / f"agent-telemetry-{digest}"
    if not os.path.lexists(link) or (link.is_symlink() and link.readlink() == cluster):
        return link
    raise StoreMisconfigured(f"data_dir: {link} is in the way: remove it, or use a shorter path")


def _link_socket(cluster: Path) -> None:
    link = _socket_dir(cluster)
    if link != cluster and not link.is_symlink():
        link.symlink_to(cluster)


def _unlink_socket(cluster: Path) -> None:
    with contextlib.suppress(StoreMisconfigured):  # not our link: not ours to remove
        link = _socket_dir(cluster)
        if link != cluster:
            link.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened_log(path: Path) -> Iterator[IO[bytes]]:
    is_large = path.exists() and path.stat().st_size > LOG_BYTES_MAX
    with path.open("wb" if is_large else "ab") as log:
        path.chmod(0o600)
        yield log


def _last_line(data_dir: Path) -> str:
    text = (data_dir / "postgres.log").read_bytes()[-2000:].decode(errors="replace")
    found = re.findall(r"(?:FATAL|PANIC|ERROR): +(.+)", text)
    return found[-1] if found else "see postgres.log in data_dir"


@contextlib.contextmanager
def _named(data_dir: Path) -> Iterator[None]:
    """Say which directory it was that the system refused."""
    try:
        yield
    except ProxyError:
        raise
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise StoreMisconfigured(
            f"data_dir: {data_dir}: {reason}; choose a directory on a local disk that this user "
            "can write"
        ) from None
