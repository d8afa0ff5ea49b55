"""The commands as a person runs them: what they print, and how they fail."""

import asyncio
import json
import os
import re
import subprocess
import sys

import pytest

from tests.e2e.provider import Load, Provider
from tests.e2e.stack import ROOT, Stack, free_port, until


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("AGENT_TEL", "DATABASE_"))}
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        env=environ | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


COMMANDS = [
    *("serve", "gateway", "recorder", "admin", "health", "migrate", "check-config", "dsn"),
    *("tail", "spool status", "spool verify", "spool quarantine", "recompute", "decode", "demo"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert "Example:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["serve"], {"GATEWAY__FOO": "1"}, ["gateway.foo", "unknown key"]),
        (["serve"], {"GATEWAY__WORKERS": "many"}, ["gateway.workers", "AGENT_TELEMETRY__GATEWAY"]),
        (["serve"], {"STORE__DSN": "mysql://x"}, ["store.dsn", "postgresql://"]),
        (["serve"], {"DATA_DIR": "/proc/none"}, ["data_dir", "/proc/none", "choose a directory"]),
        (["serve"], {"SPOOL__DIR": "/proc/none"}, ["spool.dir", "choose a directory"]),
        (["serve", "--config", "/does/not/exist.toml"], {}, ["/does/not/exist.toml"]),
        (["serve", "--nonsense"], {}, ["--nonsense", "--help"]),
        (["nonsense"], {}, ["nonsense"]),
        (["serve"], {"UPSTREAMS__OPENAI__CA_FILE": "/none.pem"}, ["ca_file", "/none.pem"]),
        (["serve"], {"REDACTION__RULES": '[{"name":"x","pattern":"("}]'}, ["redaction.rules", "x"]),
        (["decode", "/does/not/exist"], {}, ["/does/not/exist"]),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(tmp_path, arguments, settings, said):
    given = {"DATA_DIR": str(tmp_path)} | settings
    done = run(*arguments, **{f"AGENT_TELEMETRY__{key}": value for key, value in given.items()})
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    for part in said:
        assert part in done.stderr


async def test_a_port_that_is_taken_is_named(tmp_path):
    provider = Provider()
    async with provider.serving() as upstream:
        first = Stack(tmp_path / "a", upstream, role="gateway")
        async with first:
            other = Stack(tmp_path / "b", upstream)
            done = run(
                "serve",
                **other.environment
                | {"AGENT_TELEMETRY__GATEWAY__LISTEN": f"127.0.0.1:{first.port}"},
            )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"gateway.listen: 127.0.0.1:{first.port}" in done.stderr


def test_commands_that_read_say_what_to_start(tmp_path):
    environ = {"AGENT_TELEMETRY__DATA_DIR": str(tmp_path)}
    for command in (["tail"], ["tail", "--follow"]):
        done = run(*command, **environ)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "agent-telemetry serve" in done.stderr
    assert (
        run("health", AGENT_TELEMETRY__GATEWAY__LISTEN=f"127.0.0.1:{free_port()}").returncode == 1
    )
    assert json.loads(run("spool", "status", "--json", **environ).stdout)["captured"] == 0


def test_check_config_masks_secrets(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('[store]\ndsn = "postgresql://me:hunter2@h/d"\n[admin]\ntoken = "hunter3"\n')
    for extra in ([], ["--json"]):
        done = run("check-config", "--config", str(file), *extra)
        assert done.returncode == 0
        assert "hunter" not in done.stdout
        assert "postgresql://me:***@h/d" in done.stdout


def test_the_demonstration_shows_both_rows_of_its_conversation():
    done = run("demo")
    assert done.returncode == 0, done.stderr
    assert "calls get_weather" in done.stdout
    assert len(re.findall(r"200 ok +demo-model", done.stdout)) == 2
    assert "stop=completed rounds=2 tools=1" in done.stdout
    assert re.search(r"^outcome +complete$", done.stdout, re.MULTILINE)


async def test_tail_follow_shows_a_call_within_a_second(tmp_path):
    provider = Provider(pause_s=0.005)
    async with provider.serving() as upstream, Stack(tmp_path / "data", upstream) as stack:
        await stack.until_ready()
        async with Load(stack.url, per_second=20).running("early") as load:
            await load.until(3)
        follower = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", "tail", "--follow", "--session", "late-0"),
            cwd=ROOT,
            env=stack.environment | {"COLUMNS": "100"},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await until(lambda: listening(stack), "tail listens")
            async with Load(stack.url, per_second=5).running("late") as load:
                await load.until(1)
            async with asyncio.timeout(5):
                line = (await follower.stdout.readline()).decode()
        finally:
            follower.terminate()
            await follower.wait()
        assert "late-0" in line
        assert "scripted-1" in line
        assert "11→7 tok" in line
        assert len(line.rstrip("\n")) <= 100
        rows = stack.command("tail", "--json", "--lines", "3").stdout.splitlines()
        assert [json.loads(row)["outcome"] for row in rows] == ["complete"] * 3
        assert stack.command("tail", "--errors").stdout == ""
        dsn = stack.command("dsn").stdout.strip()
        assert dsn == stack.dsn
        assert stack.command("migrate").stdout.strip() == "up to date"
        assert stack.command("health").stdout.strip() == "ok"
    assert stack.process.returncode == 0


async def listening(stack: Stack) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    return bool(await stack.fetch(query))
