"""The running processes: what others on the machine can learn, and the container's conditions."""

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.stack import ROOT, Stack, free_port, until
from tests.fakes import Upstream, answering, whole

SECRET = "sk-operators-0123456789abcdef"
ANSWER = whole(
    b'{"model":"m","choices":[{"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}',
    b"Content-Type: application/json",
)
ASK = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@on_linux
async def test_neither_memory_nor_arguments_tell_a_key(tmp_path, dsn):
    secrets = {"UPSTREAMS__OPENAI__API_KEY": SECRET, "GATEWAY__CLIENT_TOKENS": SECRET}
    settings = secrets | {"ADMIN__TOKEN": SECRET, "STORE__DSN": dsn}
    async with (
        Upstream(answering(ANSWER)).serving() as upstream,
        Stack(tmp_path / "data", f"http://127.0.0.1:{upstream.port}", **settings) as stack,
    ):
        pids = [stack.process.pid, *stack.processes("gateway"), *stack.processes("recorder")]
        assert len(pids) == 3
        for pid in pids:
            of = Path(f"/proc/{pid}")
            assert SECRET.encode() not in (of / "cmdline").read_bytes()
            (core,) = [x for x in (of / "limits").read_text().splitlines() if "core file" in x]
            assert core.split()[4:6] == ["0", "0"]
            # Not dumpable: /proc shows the process as root's, to other processes of its user too.
            assert await until_owned_by_root(of / "environ")


async def until_owned_by_root(file):
    async def owned():
        return file.stat().st_uid == 0 and file.stat().st_mode & 0o077 == 0

    await until(owned, f"{file} is closed")
    return True


async def test_what_is_written_is_for_its_user_alone(tmp_path):
    async with (
        Upstream(answering(ANSWER)).serving() as upstream,
        Stack(tmp_path / "data", f"http://127.0.0.1:{upstream.port}", role="gateway") as stack,
    ):
        await call(stack.url)
        found = list((stack.data_dir / "spool").rglob("*"))
        assert any(path.is_file() for path in found)
        for path in (stack.data_dir / "spool", *found):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode & 0o077 == 0, (path, oct(mode))


async def call(url, **headers):
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/openai/v1/chat/completions", json=ASK, headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return answer.headers["x-agent-telemetry-id"]


# As `docker run --read-only --tmpfs /tmp --user 65532 --cap-drop ALL -v …:/data` would have it:
# nothing can be written but the volume, here at /mnt. Reading is allowed everywhere, since the
# interpreter may stand where only root may look.
CONTAINER = """
set -e
mount --make-rprivate /
mount --bind "$1" /mnt
[ ! -e "$1.passwd" ] || mount --bind "$1.passwd" /etc/passwd
mount -o remount,ro,bind /
mount -t tmpfs -o size=64m tmpfs /tmp
shift
exec "$@"
"""
AS_USER = (
    *("setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--no-new-privs"),
    *("--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search"),
    "--ambient-caps=-all,+dac_read_search",
)
TOKEN = "client-token-0123456789"


def why_no_container():
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    missing = [name for name in ("unshare", "setpriv", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "-m", "sh", "-c", CONTAINER, "sh", "/", *AS_USER, sys.executable, "-c", ""],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if tried.returncode == 0 else f"not here (/tmp is hidden): {tried.stderr.strip()}"


@contextlib.asynccontextmanager
async def container(data_dir, upstream):
    """`serve` under those conditions; its process, gateway's URL and a way to run commands."""
    port, admin_port = free_port(), free_port()
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "AGENT_TELEMETRY__DATA_DIR": "/mnt",
        "AGENT_TELEMETRY__GATEWAY__LISTEN": f"0.0.0.0:{port}",
        "AGENT_TELEMETRY__GATEWAY__CLIENT_TOKENS": TOKEN,
        "AGENT_TELEMETRY__ADMIN__LISTEN": f"0.0.0.0:{admin_port}",
        "AGENT_TELEMETRY__ADMIN__TOKEN": "admin-token-0123456789",
        "AGENT_TELEMETRY__UPSTREAMS__OPENAI__URL": upstream,
    }
    program = [*AS_USER, sys.executable, "-m", "proxy"]
    with open(data_dir.with_suffix(".log"), "wb") as output:
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", CONTAINER, "sh", str(data_dir), *program, "serve"],
            cwd=ROOT, env=environ, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def command(*arguments):
        entered = ["nsenter", f"--target={process.pid}", "--mount", f"--wd={ROOT}", *program]
        return subprocess.run(
            [*entered, *arguments], env=environ, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip

    try:
        yield process, f"http://127.0.0.1:{port}", command
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, 30)
        process.kill()
        process.wait()


async def test_the_image_runs_read_only_as_an_ordinary_user(tmp_path):
    if reason := why_no_container():
        pytest.skip(reason)
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    os.chown(data_dir, 65532, 65532)
    # The image has a name for the user, without which PostgreSQL makes no database.
    data_dir.with_suffix(".passwd").write_text("telemetry:x:65532:65532::/data:/usr/sbin/nologin\n")
    async with Upstream(answering(ANSWER)).serving() as upstream:
        where = f"http://127.0.0.1:{upstream.port}"
        async with container(data_dir, where) as (process, url, command):
            log = data_dir.with_suffix(".log")

            async def healthy():
                assert process.poll() is None, log.read_text()
                return (await asyncio.to_thread(command, "health")).returncode == 0

            await until(healthy, "the health check of the image is green")
            id = await call(url, **{"x-telemetry-token": TOKEN})

            async def stored():
                shown = await asyncio.to_thread(command, "tail", "--json")
                return id in shown.stdout

            await until(stored, "the call has its row")
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "\nUid:\t65532\t65532\t65532\t65532\n" in status
            assert "\nNoNewPrivs:\t1\n" in status
            with pytest.raises(aiohttp.ClientResponseError):
                await refused(url)
        assert process.returncode == 0, log.read_text()
    assert {path.stat().st_uid for path in data_dir.rglob("*")} == {65532}


async def refused(url):
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.get(f"{url}/openai/v1/models"),
    ):
        pass
