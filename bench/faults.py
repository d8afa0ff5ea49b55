"""The time to the first byte that the gateway adds: all healthy, and with each part of it broken.

    python -m bench.faults [ROUNDS]

Five paths to one provider at the same time: direct, a healthy gateway, one whose PostgreSQL is
down, one whose disk is full, one whose recorder is dead. Each round asks all of them in a new
order, one after the other, so that whatever the machine does meanwhile hits all alike. What is
added is a path's time less the direct one's of the same round. A full disk needs the right to
mount a small file system; without it that path is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from proxy.store.embedded import EmbeddedServer
from tests.e2e.provider import Provider
from tests.e2e.stack import Stack

ROUNDS, WARM_UP = 1000, 50
PAUSE_S = 0.005
BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"%b"}]}' % (b"x" * 2000)
REQUEST = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
PATH = "/openai/v1/chat/completions"


class Agent:
    """A kept connection over which one call after the other is made."""

    def __init__(self, url: str, path: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._host, self._port = host, int(port)
        self._request = REQUEST % (path.encode(), len(BODY), BODY)

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def first_byte_s(self) -> float:
        began = time.perf_counter()
        self._writer.write(self._request)
        await self._reader.readuntil(b"\r\n\r\n")
        first = await self._reader.readuntil(b"\r\n")
        took = time.perf_counter() - began
        while size := int(first, 16):
            await self._reader.readexactly(size + 2)
            first = await self._reader.readuntil(b"\r\n")
        await self._reader.readexactly(2)
        return took


@contextlib.contextmanager
def full_disk() -> Iterator[Path | None]:
    """A small file system, to be filled by `fill`; None without the right to mount one."""
    with tempfile.TemporaryDirectory() as where:
        command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", where]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            yield None
            return
        try:
            yield Path(where)
        finally:
            subprocess.run(["umount", "-l", where], check=True)


def fill(disk: Path) -> None:
    with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(256))


@contextlib.asynccontextmanager
async def gateways(root: Path, upstream: str, disk: Path | None) -> AsyncIterator[dict[str, Stack]]:
    server = EmbeddedServer(root / "stopped")
    dsn = server.start()
    server.stop()
    stacks = {
        "healthy": Stack(root / "healthy", upstream),
        "PostgreSQL down": Stack(root / "down", upstream, STORE__DSN=dsn),
        "recorder dead": Stack(root / "dead", upstream, role="gateway"),
    }
    if disk is not None:
        settings = {"SPOOL__DIR": str(disk / "spool"), "STORE__DSN": dsn}
        stacks["disk full"] = Stack(root / "full", upstream, **settings)
    async with contextlib.AsyncExitStack() as running:
        for stack in stacks.values():
            await running.enter_async_context(stack)
        await stacks["healthy"].until_ready()
        if disk is not None:
            fill(disk)
        yield stacks


async def measure(rounds: int) -> dict[str, list[float]]:
    """Milliseconds added per path and round."""
    with tempfile.TemporaryDirectory() as root, full_disk() as disk:
        async with (
            Provider(0).serving() as upstream,
            gateways(Path(root), upstream, disk) as stacks,
        ):
            agents = {name: Agent(stack.url, PATH) for name, stack in stacks.items()}
            agents["direct"] = Agent(upstream, PATH.removeprefix("/openai"))
            for agent in agents.values():
                await agent.open()
            for _ in range(WARM_UP):
                await one_round(agents)
            measured = [await one_round(agents) for _ in range(rounds)]
            for agent in agents.values():
                await agent.close()
    return {
        name: [1000 * (took[name] - took["direct"]) for took in measured]
        for name in agents
        if name != "direct"
    }


async def one_round(agents: dict[str, Agent]) -> dict[str, float]:
    """Seconds to the first byte, each path asked once."""
    took = {}
    for name in random.sample(sorted(agents), len(agents)):
        took[name] = await agents[name].first_byte_s()
        await asyncio.sleep(PAUSE_S)
    return took


def main() -> None:
    added = asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
    healthy = statistics.median(added["healthy"])
    print("| state | added p50, ms | p99, ms | p50 ÷ healthy |\n|---|---|---|---|")
    for name, values in added.items():
        median = statistics.median(values)
        p99 = statistics.quantiles(values, n=100)[98]
        print(f"| {name} | {median:.2f} | {p99:.2f} | {median / healthy:.2f} |")


if __name__ == "__main__":
    main()
