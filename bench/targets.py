"""Targets: what is compared, each a process tree that forwards to the same provider.

`direct` is the provider itself, `nginx` the limit, `naive` the frozen reference, `ours` and
`ours-off` this program with recording on and off. LiteLLM and Portkey take part where
`python -m bench.peers` has installed them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.processes import command, tree
from proxy.spool.totals import read_totals, summed

PEERS_DIR = Path.home() / ".cache" / "agent-telemetry-bench"
ROOT = Path(__file__).parents[1]
START_S, DRAIN_S = 180.0, 120.0
_PATH = "/v1/chat/completions"
_NGINX = """
worker_processes 1; daemon off; pid {directory}/nginx.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 0; client_body_buffer_size 1m;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  keepalive_requests 1000000;
  upstream plain {{ server 127.0.0.1:{provider}; keepalive 1024; keepalive_requests 1000000; }}
  upstream tls {{ server 127.0.0.1:{provider_tls}; keepalive 1024; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    proxy_request_buffering off;
    location / {{ proxy_pass http://plain; }}
    location /tls/ {{ proxy_pass https://tls/; proxy_ssl_verify off; }}
  }}
}}
"""
_LITELLM = """
model_list:
  - model_name: bench
    litellm_params:
      {{model: openai/bench, api_base: "http://127.0.0.1:{provider}/v1", api_key: sk-x}}
litellm_settings: {{telemetry: false}}
"""

_LITELLM_ALONE = {  # no database, no key, nothing fetched: the least it can do
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Target:
    """One thing to measure. `path` and `tls_path` lead to the provider, without and with TLS."""

    name: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    path: str = _PATH
    tls_path: str = _PATH
    headers: bytes = b""
    spool: Path | None = None
    is_ours: bool = False
    version: str = ""

    def request(self, body: bytes, *, is_tls: bool) -> bytes:
        path = self.tls_path if is_tls else self.path
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            "Content-Type: application/json\r\nAccept: application/json\r\n"
            "User-Agent: OpenAI/Python 1.99.0\r\nx-stainless-lang: python\r\n"
            f"Authorization: Bearer sk-bench-0123456789abcdef\r\nContent-Length: {len(body)}\r\n"
        )
        return head.encode() + self.headers + b"\r\n" + body

    def pids(self) -> dict[str, list[int]]:
        """The processes by what they do: `serving` is what a call goes through."""
        found: dict[str, list[int]] = {"serving": [], "recorder": [], "postgres": []}
        if self.process is None:
            return found
        for pid in tree(self.process.pid):
            words = command(pid)
            if not self.is_ours or "gateway" in words or "serve" in words:
                found["serving"].append(pid)
            elif "recorder" in words:
                found["recorder"].append(pid)
            elif "admin" not in words:
                found["postgres"].append(pid)
        return found

    def drained(self) -> None:
        """Wait until what was recorded is in the table."""
        if self.spool is None:
            return
        deadline = time.monotonic() + DRAIN_S
        while summed(read_totals(self.spool)).waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the recorder of {self.name} does not keep up")
            time.sleep(0.02)

    def stored(self) -> int:
        return summed(read_totals(self.spool)).stored if self.spool else 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            if self.process.poll() is None:
                self.process.kill()


def started(name: str, directory: Path, provider: int, provider_tls: int) -> Target | None:
    """The target, serving; None where it is not installed."""
    directory.mkdir(parents=True)
    port = free_port()
    if name == "direct":
        return Target(name, provider)
    make = _MAKERS[name]
    target = make(directory, port, provider, provider_tls)
    if target is not None:
        until_listening(target, directory)
    return target


def _nginx(directory: Path, port: int, provider: int, provider_tls: int) -> Target | None:
    program = shutil.which("nginx")
    if program is None:
        return None
    file = directory / "nginx.conf"
    places = {"directory": directory, "port": port}
    file.write_text(_NGINX.format(provider=provider, provider_tls=provider_tls, **places))
    version = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    return Target(
        "nginx",
        port,
        _begun([program, "-p", str(directory), "-c", str(file)], directory),
        tls_path="/tls" + _PATH,
        version=version.strip().rpartition("/")[2],
    )


def _naive(directory: Path, port: int, provider: int, provider_tls: int) -> Target:
    """One process each for the plain and the encrypted provider would be unfair: TLS is ours."""
    words = [sys.executable, "-m", "bench.naive", str(port), f"http://127.0.0.1:{provider}"]
    return Target("naive", port, _begun(words, directory), version="frozen")


def _naive_tls(directory: Path, port: int, provider: int, provider_tls: int) -> Target:
    words = [sys.executable, "-m", "bench.naive", str(port), f"https://127.0.0.1:{provider_tls}"]
    return Target("naive-tls", port, _begun(words, directory), version="frozen")


def _ours(directory: Path, port: int, provider: int, provider_tls: int) -> Target:
    return ours("ours", directory, port, provider, provider_tls)


def _ours_off(directory: Path, port: int, provider: int, provider_tls: int) -> Target:
    off = {"CAPTURE__ENABLED": "false"}
    return ours("ours-off", directory, port, provider, provider_tls, **off)


def ours(
    name: str, directory: Path, port: int, provider: int, provider_tls: int, **settings: str
) -> Target:
    """This program as its user runs it, with the embedded database."""
    own = {
        "DATA_DIR": str(directory / "data"),
        "GATEWAY__LISTEN": f"127.0.0.1:{port}",
        "ADMIN__LISTEN": f"127.0.0.1:{free_port()}",
        "UPSTREAMS__OPENAI__URL": f"http://127.0.0.1:{provider}",
        "UPSTREAMS__SECURE__URL": f"https://127.0.0.1:{provider_tls}",
        "UPSTREAMS__SECURE__INSECURE": "true",
        "LOG__LEVEL": "warning",
        **settings,
    }
    environment = {f"AGENT_TELEMETRY__{key}": value for key, value in own.items()}
    process = _begun([sys.executable, "-m", "proxy", "serve"], directory, environment)
    is_on = settings.get("CAPTURE__ENABLED") != "false"
    return Target(
        name,
        port,
        process,
        "/openai" + _PATH,
        "/secure" + _PATH,
        spool=directory / "data" / "spool" if is_on else None,
        is_ours=True,
    )


def _litellm(directory: Path, port: int, provider: int, provider_tls: int) -> Target | None:
    program = PEERS_DIR / "litellm" / "bin" / "litellm"
    if not program.exists():
        return None
    file = directory / "litellm.yaml"
    file.write_text(_LITELLM.format(provider=provider))
    words = [str(program), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    process = _begun(words, directory, _LITELLM_ALONE)
    show = [str(program.with_name("pip")), "show", "litellm"]
    shown = subprocess.run(show, capture_output=True, text=True, check=False).stdout
    version = next((x.split()[1] for x in shown.splitlines() if x.startswith("Version")), "")
    return Target("litellm", port, process, version=version)


def _portkey(directory: Path, port: int, provider: int, provider_tls: int) -> Target | None:
    package = PEERS_DIR / "portkey" / "node_modules" / "@portkey-ai" / "gateway"
    program, node = package / "build" / "start-server.js", shutil.which("node")
    if node is None or not program.exists():
        return None
    words = [node, str(program), f"--port={port}", "--headless"]
    own = f"x-portkey-provider: openai\r\nx-portkey-custom-host: http://127.0.0.1:{provider}/v1\r\n"
    found = (package / "package.json").read_text().split('"version": "')[1].split('"')[0]
    process = _begun(words, directory, {"NODE_ENV": "production"})
    return Target("portkey", port, process, headers=own.encode(), version=found)


_MAKERS = {
    "nginx": _nginx,
    "naive": _naive,
    "naive-tls": _naive_tls,
    "ours": _ours,
    "ours-off": _ours_off,
    "litellm": _litellm,
    "portkey": _portkey,
}


def _begun(
    words: list[str], directory: Path, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AGENT_TEL", "DATABASE_"))}
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            words,
            cwd=ROOT,
            env=kept | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def until_listening(target: Target, directory: Path) -> None:
    deadline = time.monotonic() + START_S
    for _ in _until(deadline):
        if target.process is not None and target.process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", target.port), 1):
            return
    target.stop()
    raise RuntimeError(f"{target.name} does not serve: {(directory / 'log').read_text()[-2000:]}")


def _until(deadline: float) -> Iterator[None]:
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)
