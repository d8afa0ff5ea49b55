"""Servers of NATS on loopback: one, or three that replicate.

The program is the distribution's, or what NATS_SERVER names.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import pytest

from proxy.config import Nats
from proxy.errors import ProxyError
from proxy.fleet.connection import Connection
from proxy.fleet.stream import ensure
from tests.e2e.stack import free_port, until

PROGRAM = os.environ.get("NATS_SERVER") or shutil.which("nats-server") or "/usr/sbin/nats-server"
needs_nats = pytest.mark.skipif(
    not Path(PROGRAM).exists(), reason="nats-server is not installed (apt-get install nats-server)"
)
MAX_BYTES = 64 * 1024 * 1024  # is set aside for each stream at once


class Servers:
    """`count` servers that form a cluster; each can be killed and started again."""

    def __init__(self, directory: Path, count: int, extra: str = "") -> None:
        self.directory = directory
        self.ports = [free_port() for _ in range(count)]
        self._routes = [free_port() for _ in range(count)]
        self._monitors = [free_port() for _ in range(count)]
        self._extra = extra
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * count

    @property
    def urls(self) -> list[str]:
        return [f"nats://127.0.0.1:{port}" for port in self.ports]

    @property
    def monitors(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self._monitors]

    @property
    def logs(self) -> list[Path]:
        return [self.directory / str(number) / "log" for number in range(len(self.ports))]

    def settings(self, **more) -> Nats:
        given = {"servers": self.urls, "replicas": len(self.ports), "max_bytes": MAX_BYTES}
        return Nats(**(given | more))

    def environment(self, **more: str) -> dict[str, str]:
        """Settings for `tests.e2e.stack.Stack`."""
        return {
            "SPOOL__TRANSPORT": "nats",
            "NATS__SERVERS": ",".join(self.urls),
            "NATS__REPLICAS": str(len(self.ports)),
            "NATS__MAX_BYTES": str(MAX_BYTES),
            "NATS__ACK_WAIT_S": "3",
        } | more

    def start(self, number: int) -> None:
        directory = self.directory / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "server.conf"
        file.write_text(self._config(number, directory))
        with open(directory / "log", "ab") as log:
            self._processes[number] = subprocess.Popen(
                [PROGRAM, "-c", str(file)], stdout=log, stderr=log
            )

    def kill(self, number: int) -> None:
        process = self._processes[number]
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            self._processes[number] = None

    def is_running(self, number: int) -> bool:
        process = self._processes[number]
        return process is not None and process.poll() is None

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process is not None]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Servers"]:
        for number in range(len(self.ports)):
            self.start(number)
        try:
            await self.until_ready()
            yield self
        finally:
            for number in range(len(self.ports)):
                self.kill(number)

    async def until_ready(self, **more) -> None:
        """Wait until the cluster has a leader and makes what we need."""

        async def ready() -> bool:
            with contextlib.suppress(ProxyError):
                async with connected(self.settings(**more)) as connection:
                    await ensure(connection, self.settings(**more))
                    return True
            return False

        await until(ready, "the servers of NATS agree")

    def _config(self, number: int, directory: Path) -> str:
        cluster = ""
        if len(self.ports) > 1:
            others = [p for n, p in enumerate(self._routes) if n != number]
            routes = ", ".join(f"nats://127.0.0.1:{port}" for port in others)
            cluster = (
                f"cluster {{ name: fleet, listen: 127.0.0.1:{self._routes[number]}, "
                f"no_advertise: true, routes: [{routes}] }}"
            )
        return f"""
            server_name: s{number}
            listen: 127.0.0.1:{self.ports[number]}
            http: 127.0.0.1:{self._monitors[number]}
            jetstream {{
                store_dir: "{directory}/store", max_mem: 64MB, max_file: 64GB {_sync()}
            }}
            {cluster}
            {self._extra}
        """


@cache
def _sync() -> str:
    """As deploy/nats/nats.conf has it, where the program knows of it."""
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = map(int, re.search(r"v(\d+)\.(\d+)", said).groups())
    return ", sync_interval: always" if (major, minor) >= (2, 10) else ""


@asynccontextmanager
async def connected(settings: Nats) -> AsyncIterator[Connection]:
    connection = await Connection.open(settings, "test")
    try:
        yield connection
    finally:
        await connection.close()


async def wait_for(condition, what: str, seconds: float = 60.0) -> None:
    """As `until`, for a condition that does not wait."""

    async def holds() -> bool:
        return condition()

    await until(holds, what, seconds)
