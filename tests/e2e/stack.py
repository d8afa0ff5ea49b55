"""The whole program as its user runs it: `serve` in a process of its own, on free ports.

`Stack` starts it with a configuration in the environment, finds the processes it supervises, and
kills them. Nothing here reaches into the program.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp
import asyncpg

from proxy.probe import gateway_answers
from proxy.store import embedded
from tests.database import fetched

ROOT = Path(__file__).parents[2]
UPSTREAMS = ("OPENAI", "ANTHROPIC", "GEMINI")
START_S, WAIT_S = 120.0, 120.0


def free_port() -> int:
    """One that nobody uses, and that the system will give to no outgoing connection either.

    It is used again after a kill, and other tests connect meanwhile; Linux begins at 32,768.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", 10_000 + secrets.randbelow(22_000)))
            return probe.getsockname()[1]


async def until(done: Callable[[], Awaitable[bool]], what: str, seconds: float = WAIT_S) -> None:
    """Wait for a condition; fail with its name where it does not come."""
    deadline = time.monotonic() + seconds
    while not await done():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.05)


async def until_settled(
    done: Callable[[], Awaitable[bool]], progress: Callable[[], object], what: str
) -> None:
    """Wait for a condition while anything moves: a busy machine is slow, and not wrong."""
    seen, since = progress(), time.monotonic()
    while not await done():
        now = time.monotonic()
        if progress() != seen:
            seen, since = progress(), now
        assert now < since + WAIT_S, f"nothing moves for {WAIT_S} s at {seen}: {what}"
        await asyncio.sleep(0.05)


class Stack:
    """One running `serve`."""

    def __init__(
        self, data_dir: Path, upstream: str, *, role: str = "serve", **settings: str
    ) -> None:
        self.role = role
        self.port, self.admin_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"
        self.data_dir = data_dir
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AGENT_TEL", "DATABASE_"))},
            "AGENT_TELEMETRY__DATA_DIR": str(data_dir),
            "AGENT_TELEMETRY__GATEWAY__LISTEN": f"127.0.0.1:{self.port}",
            "AGENT_TELEMETRY__GATEWAY__DRAIN_TIMEOUT_S": "5",
            "AGENT_TELEMETRY__ADMIN__LISTEN": f"127.0.0.1:{self.admin_port}",
            **{f"AGENT_TELEMETRY__UPSTREAMS__{n}__URL": upstream for n in UPSTREAMS},
            **{f"AGENT_TELEMETRY__{key}": value for key, value in settings.items()},
        }
        self.dsn = settings.get("STORE__DSN") or embedded.dsn(data_dir)
        self.log = data_dir.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> "Stack":
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    def launch(self, *, under: Sequence[str] = (), leads_a_group: bool = False) -> None:
        """`under`: a program that becomes it."""
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "proxy", self.role],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=leads_a_group,
            )

    async def start(self) -> None:
        self.launch()
        try:
            await until(self.is_serving, "the gateway answers", START_S)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 120)

    async def is_serving(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_text()
        return await gateway_answers(f"127.0.0.1:{self.port}")

    async def readiness(self) -> str | None:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{self.admin_url}/readyz") as answer,
            ):
                return (await answer.json())["status"]
        return None

    async def until_ready(self) -> None:
        """Wait until the gateway and the database answer, and the table is there."""
        migrated = "SELECT to_regclass('agent_telemetry') IS NOT NULL AS found"

        async def ready() -> bool:
            return await self.readiness() == "ok" and (await self.fetch(migrated))[0]["found"]

        await until(ready, "gateway and database answer")

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command of the program, with the same configuration."""
        return subprocess.run(
            [sys.executable, "-m", "proxy", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def processes(self, role: str) -> list[int]:
        """Ids of the supervised processes of a role; `postgres` is the database's own."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        found = []
        for pid in map(int, children.split()):
            with contextlib.suppress(OSError):
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if (
                    role.encode() in arguments
                    or role.encode() == Path(os.fsdecode(arguments[0])).name.encode()
                ):
                    found.append(pid)
        return found

    async def kill(self, role: str) -> None:
        """kill -9 one process of a role, and wait until another has taken its place."""
        before: list[int] = []

        async def found() -> bool:
            before[:] = self.processes(role)
            return bool(before)

        await until(found, f"a process of role {role}")  # one may be starting
        os.kill(before[0], signal.SIGKILL)

        async def replaced() -> bool:
            return len(set(self.processes(role)) - {before[0]}) >= len(before)

        await until(replaced, f"{role} is started again")

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        return await fetched(self.dsn, query, *arguments)
