"""Ctrl-C and a terminal that closes: each process hears it, and all ends in order even so."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from proxy.spool.totals import read_totals, summed
from tests.e2e.provider import Provider
from tests.e2e.stack import ROOT, Stack, until

NOWHERE = "postgresql://127.0.0.1:9/none"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.fixture(autouse=True)
def _interrupts_are_heard():
    """A shell has what it starts in the background ignore SIGINT, and what that starts too."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


class Foreground(Stack):
    """A `serve` that leads a process group of its own, as one that a shell starts."""

    under = ()

    def interrupt(self, number=signal.SIGINT) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    async def start(self) -> None:
        self.launch(under=self.under, leads_a_group=True)

    async def ended(self) -> int:
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, 120)


async def test_an_interrupt_while_processes_start_prints_no_traceback(tmp_path):
    async with Foreground(tmp_path / "data", "http://127.0.0.1:9") as stack:

        async def found() -> bool:
            return bool(stack.processes("admin"))

        await until(found, "the last process is being started")
        stack.interrupt()
        assert await stack.ended() == 0
    assert "Traceback" not in stack.log_text()
    assert "process ended" not in stack.log_text()


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGHUP, signal.SIGHUP]])
async def test_a_call_that_an_interrupt_lets_end_is_stored_before_the_database_stops(
    tmp_path, numbers
):
    provider = Provider(pause_s=0.2)
    async with provider.serving() as url, Foreground(tmp_path / "data", url) as stack:
        await until(stack.is_serving, "the gateway answers")
        await stack.until_ready()
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{stack.url}/openai/v1/chat/completions", json=CHAT) as answer,
        ):
            await answer.content.readany()
            for number in numbers:  # a shell and its terminal both tell of its end
                stack.interrupt(number)
                await answer.content.readany()
            assert b"[DONE]" in await answer.read()
        assert await stack.ended() == 0
    totals = summed(read_totals(tmp_path / "data" / "spool"))
    assert (totals.captured, totals.stored, totals.waiting) == (1, 1, 0)


class InTerminal(Foreground):
    """A `serve` in a terminal of its own."""

    async def start(self) -> None:
        self.master, terminal = pty.openpty()
        command = ["setsid", "--ctty", sys.executable, "-m", "proxy", "serve"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)


async def test_a_terminal_that_closes_stops_everything_in_order(tmp_path):
    async with InTerminal(tmp_path / "data", "http://127.0.0.1:9") as stack:
        await until(stack.is_serving, "the gateway answers")
        await stack.until_ready()
        database = stack.data_dir / "postgres" / "postmaster.pid"
        assert database.exists()
        os.close(stack.master)
        assert await stack.ended() == 0
        assert not database.exists()


class Detached(Foreground):
    under = ("nohup",)


async def test_nohup_outlives_its_terminal(tmp_path):
    async with Detached(tmp_path / "data", "http://127.0.0.1:9") as stack:
        await until(stack.is_serving, "the gateway answers")
        stack.interrupt(signal.SIGHUP)
        await stack.kill("gateway")  # and somebody lives who starts it again
        assert await stack.stop() == 0


def test_an_interrupt_while_the_program_is_loaded_prints_no_traceback():
    script = "import os, signal, proxy.__main__ as program, sys\n"
    script += "class Interrupted:\n"
    script += "    def find_spec(self, name, path, target=None):\n"
    script += "        if name == 'proxy.cli': os.kill(os.getpid(), signal.SIGINT)\n"
    script += "sys.meta_path.insert(0, Interrupted())\n"
    script += "sys.modules.pop('proxy.cli', None)\n"
    script += "program.run()\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_demonstration_that_is_ended_leaves_nothing(tmp_path, number):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "demo"),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    while b"model: calls" not in (line := await process.stdout.readline()):
        assert line
    process.send_signal(number)
    _, said = await process.communicate()  # returns once nobody holds the pipe any more
    assert process.returncode == 130
    assert said.strip() == b""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("role", ["gateway", "recorder"])
async def test_a_process_alone_stops_in_order_when_its_terminal_closes(tmp_path, role):
    stack = Foreground(tmp_path / "data", "http://127.0.0.1:9", role=role, STORE__DSN=NOWHERE)
    await stack.start()
    assert stack.process is not None

    async def listens() -> bool:
        caught = Path(f"/proc/{stack.process.pid}/status").read_text().split("SigCgt:\t")[1]
        return bool(int(caught.split()[0], 16) >> (signal.SIGHUP - 1) & 1)

    await until(listens, "the process heeds signals")
    stack.interrupt(signal.SIGHUP)
    assert await stack.ended() == 0
