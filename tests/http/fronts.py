"""Fronts: what a case is sent through, each before a provider of its own.

`direct` is the provider itself; `ours` is the gateway in this process; nginx and HAProxy are
started as processes where they are installed. Each front has several lanes, so that cases which
wait for a deadline do not hold up the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from proxy.wire.server import Gateway
from tests.fakes import PATIENCE_S, MemorySink
from tests.http.cases import Case
from tests.http.observe import Address, Observation, Provider, observe
from tests.wire.gateways import config_of, running

OURS = "ours"
NAMES = ("direct", OURS, "nginx", "haproxy")
DEADLINE_S = 1  # for what a front waits for
LANES = 12


def missing(name: str) -> str:
    """Why this front cannot be started here, or nothing."""
    if name in ("nginx", "haproxy") and shutil.which(name) is None:
        return f"{name} is not installed"
    return ""


async def through(name: str, cases: Sequence[Case]) -> list[Observation]:
    """Every case through one front, in order."""
    async with AsyncExitStack() as stack:
        lanes = [await stack.enter_async_context(Provider().serving()) for _ in range(LANES)]
        where = await stack.enter_async_context(_front(name, [lane.port for lane in lanes]))
        waiting = list(enumerate(cases))[::-1]
        found: dict[int, Observation] = {}

        async def work(address: Address, provider: Provider) -> None:
            while waiting:
                number, case = waiting.pop()
                found[number] = await observe(case, address, provider)

        async with asyncio.TaskGroup() as group:
            for address, lane in zip(where, lanes, strict=True):
                group.create_task(work(address, lane))
    return [found[number] for number in range(len(cases))]


@asynccontextmanager
async def _front(name: str, providers: list[int]) -> AsyncIterator[list[Address]]:
    """The addresses of a front's lanes."""
    match name:
        case "direct":
            yield list(providers)
        case "ours":
            async with AsyncExitStack() as stack:
                yield [await stack.enter_async_context(_gateway(port)) for port in providers]
        case "nginx":
            command = ["nginx", "-e", "stderr", "-c"]
            async with _process(providers, _nginx_configuration, command) as sockets:
                yield sockets
        case _:
            command = ["haproxy", "-db", "-f"]
            async with _process(providers, _haproxy_configuration, command) as sockets:
                yield sockets


@asynccontextmanager
async def _gateway(provider: int) -> AsyncIterator[int]:
    upstream = {"url": f"http://127.0.0.1:{provider}/fake"}
    limits = {"header_timeout_s": DEADLINE_S, "idle_timeout_s": DEADLINE_S}
    async with running(config_of({"fake": upstream}, gateway=limits), MemorySink()) as gateway:
        yield _port_of(gateway)


def _port_of(gateway: Gateway) -> int:
    address = gateway.addresses[0]
    assert isinstance(address, tuple)
    port = address[1]
    assert isinstance(port, int)
    return port


@asynccontextmanager
async def _process(
    providers: list[int],
    configuration: Callable[[Path, list[tuple[str, int]]], str],
    command: list[str],
) -> AsyncIterator[list[Address]]:
    with tempfile.TemporaryDirectory(prefix="fronts-") as directory:
        sockets = [f"{directory}/{lane}" for lane in range(len(providers))]
        file, log = Path(directory) / "front.conf", Path(directory) / "log"
        file.write_text(configuration(Path(directory), list(zip(sockets, providers, strict=True))))
        with log.open("wb") as output:
            process = subprocess.Popen([*command, str(file)], stdout=output, stderr=output)
        try:
            for path in sockets:
                await _until_listening(path, process, log)
            yield [*sockets]
        finally:
            process.kill()
            process.wait()


async def _until_listening(path: str, process: subprocess.Popen[bytes], log: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_unix_connection(path)
                writer.close()
                return
            await asyncio.sleep(0.02)


def _nginx_configuration(directory: Path, lanes: list[tuple[str, int]]) -> str:
    servers = "\n".join(
        f"""server {{
            listen unix:{path};
            location / {{ proxy_pass http://127.0.0.1:{provider}; }}
        }}"""
        for path, provider in lanes
    )
    temporary = "\n".join(
        f"{kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""daemon off; master_process off; pid {directory}/pid;
    events {{ worker_connections 1024; }}
    http {{
        access_log off; {temporary}
        client_header_timeout {DEADLINE_S}s; client_body_timeout {DEADLINE_S}s;
        proxy_read_timeout {2 * DEADLINE_S}s; lingering_close off;
        proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off;
        proxy_set_header Connection "";
        {servers}
    }}"""


def _haproxy_configuration(directory: Path, lanes: list[tuple[str, int]]) -> str:
    fronts = "\n".join(
        f"listen lane{lane}\n  bind unix@{path}\n  server provider 127.0.0.1:{provider}"
        for lane, (path, provider) in enumerate(lanes)
    )
    return f"""defaults
  mode http
  timeout connect 5s
  timeout client {DEADLINE_S}s
  timeout http-request {DEADLINE_S}s
  timeout http-keep-alive {DEADLINE_S}s
  timeout server {2 * DEADLINE_S}s
{fronts}
"""
