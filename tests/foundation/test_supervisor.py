"""The supervisor's process: small, called as its user called it, and there for its children."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.plan import LogPlan, Plan
from tests.e2e.stack import ROOT, Stack, free_port, until

# A supervisor runs for as long as the program: whoever adds to this says what for.
OWN = {"environment", "log", "crash", "errors", "plan", "supervise", "store"}
OWN |= {"store.binaries", "store.embedded", "store.leftovers"}
OTHERS = {"orjson"}
LARGE = {"asyncio", "ssl", "_hashlib", "multiprocessing", "http", "email"}
LARGE_FILES = (
    "pydantic",
    "re2",
    "httptools",
    "_ssl",
    "_hashlib",
    "libcrypto",
    "_asyncio",
    "uvloop",
)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_the_supervisor_imports_the_little_it_needs():
    imported = "proxy.crash, proxy.environment, proxy.supervise"  # as `proxy.__main__` does
    shown = f"import {imported}, sys; print(*sys.modules)"
    modules = set(
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {PATHS!r}; {shown}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    )
    own = {name.removeprefix("proxy.") for name in modules if name.startswith("proxy.")}
    assert own == OWN
    roots = {name.partition(".")[0] for name in modules} - {"proxy", "__main__"}
    assert roots - sys.stdlib_module_names == OTHERS
    assert roots & LARGE == set()


PATHS = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]


@on_linux
async def test_a_running_supervisor_holds_none_of_what_it_validated_with(tmp_path):
    stack = Stack(tmp_path / "data", "http://127.0.0.1:9")
    stack.environment["AGENT_TELEMETRY_DEBUG"] = "1"  # else only root may look
    async with stack:
        of = Path(f"/proc/{stack.process.pid}")
        maps = (of / "maps").read_text()
        assert "orjson" in maps
        assert [name for name in LARGE_FILES if name in maps] == []
        said = (of / "cmdline").read_bytes().split(b"\0")[:-1]
        assert said == [os.fsencode(x) for x in (sys.executable, "-m", "proxy", "serve")]
        for role in ("gateway", "recorder", "admin"):
            (pid,) = stack.processes(role)
            assert b"AGENT_TELEMETRY_PLAN" not in Path(f"/proc/{pid}/environ").read_bytes()
        await stack.kill("gateway")
        await until(stack.is_serving, "another gateway answers")
        await stack.kill("postgres")
        await stack.until_ready()
        (child,) = stack.processes("gateway")
        stack.process.kill()
        stack.process.wait()

        async def ended():
            return not Path(f"/proc/{child}").exists()

        await until(ended, "the children of a killed supervisor end")
        await stack.start()
        await stack.until_ready()


@on_linux
async def test_a_script_keeps_its_name_and_its_relative_paths(tmp_path, monkeypatch):
    home = tmp_path / "hômé"
    home.mkdir()
    script = home / "agent-telemetry"
    script.write_text(f"#!{sys.executable}\nfrom proxy.__main__ import run\nrun()\n")
    script.chmod(stat.S_IRWXU)
    settings = {
        "data_dir": "däta",
        "gateway": {"listen": f"unix:{tmp_path}/gateway.sock"},
        "admin": {"listen": f"127.0.0.1:{free_port()}"},
        "log": {"format": "json"},
    }
    (home / "settings.toml").write_text(as_toml(settings))
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("AGENT_TEL", "DATABASE_"))}
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["./agent-telemetry", "serve", "--config", "settings.toml"],
            cwd=home,
            env=environ | {"PYTHONPATH": str(ROOT), "LANG": "C", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:

        async def ready():
            assert process.poll() is None, log.read_text()
            return b'"event":"ready"' in log.read_bytes()

        await until(ready, "it says that it is ready")
        of = Path(f"/proc/{process.pid}")
        assert (of / "comm").read_text() == "agent-telemetry\n"
        said = (of / "cmdline").read_text().split("\0")[1:-1]
        assert said == ["./agent-telemetry", "serve", "--config", "settings.toml"]
        assert json.loads(log.read_text().splitlines()[0])["data_dir"] == "däta"
        assert (home / "däta" / "metrics" / "serve.lock").exists()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()


def as_toml(settings):
    lines = []
    for key, value in settings.items():
        lines += [f"[{key}]", *as_toml(value).split("\n")] if isinstance(value, dict) else [
            f"{key} = {json.dumps(value, ensure_ascii=False)}"
        ]  # fmt: skip
    return "\n".join(lines)


def test_a_plan_is_the_same_when_it_is_read():
    plan = Plan(
        process_name="python",
        config_path="/etc/\udcff.toml",  # not UTF-8
        data_dir="däta",
        metrics_dir="däta/metrics",
        has_database=True,
        has_forwarder=False,
        workers=2,
        drain_timeout_s=0.5,
        gateway_fd=3,
        admin_fd=None,
        base_urls={"openai": "http://127.0.0.1:8080/openai/v1"},
        gateway_url="http://127.0.0.1:8080",
        admin_url=None,
        log=LogPlan("auto", "info"),
    )
    text = plan.as_json()
    assert text.isascii()
    assert Plan.from_json(text) == plan
