"""A canary in every error that nothing catches: what is told is type and place, nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CANARY = "sk-canary-0123456789abcdef"

# Each raises with the canary in a place of its own, after the process has been told to be discreet.
PLACES = {
    "the main thread": "raise ValueError(CANARY)",
    "a cause and its effect": """
try:
    raise KeyError(CANARY)
except KeyError as error:
    raise RuntimeError(CANARY) from error
""",
    "a group": "raise ExceptionGroup(CANARY, [ValueError(CANARY)])",
    "an error's note": """
error = ValueError(CANARY)
error.add_note(CANARY)
raise error
""",
    "the name of a type": "raise type('E', (Exception,), {'__str__': lambda self: CANARY})",
    "a syntax error's line": "compile(f'{CANARY!r} !', 'x', 'exec')",
    "a thread": """
import threading
def work():
    raise ValueError(CANARY)
thread = threading.Thread(target=work)
thread.start(); thread.join()
""",
    "a finaliser": """
class Broken:
    def __del__(self):
        raise ValueError(CANARY)
Broken()
""",
    "a log line that does not fit": "import logging; logging.getLogger('x').warning('%d', CANARY)",
    "an event that cannot be written": """
class Odd:
    def __str__(self): raise ValueError(CANARY)
event('x', field=Odd())
""",
    "a callback of the loop": """
def call():
    raise ValueError(CANARY)
async def main():
    asyncio.get_running_loop().call_soon(call)
    await asyncio.sleep(0)
run(main)
""",
    "a task that nobody awaits": """
async def fail():
    raise ValueError(CANARY)
async def main():
    task = asyncio.create_task(fail())
    while not task.done():
        await asyncio.sleep(0)
    del task
    gc.collect()
run(main)
""",
    "a protocol's callback": """
class Protocol(asyncio.Protocol):
    lost = asyncio.Event()
    def data_received(self, data):
        raise ValueError(data.decode())
    def connection_lost(self, error):
        self.lost.set()
async def main():
    ours, theirs = socket.socketpair()
    await asyncio.get_running_loop().create_connection(Protocol, sock=ours)
    theirs.send(CANARY.encode())
    await Protocol.lost.wait()
run(main)
""",
    "a slow callback": """
async def main():
    asyncio.get_running_loop().call_soon(lambda said: time.sleep(0.15), CANARY)
    await asyncio.sleep(0)
run(main)
""",
    "a coroutine that never ran": """
async def forgotten(said):
    pass
async def main():
    forgotten(CANARY)
    gc.collect()
run(main)
""",
    "a crash of the interpreter": """
def crash(said):
    faulthandler.enable()
    ctypes.string_at(0)
crash(CANARY)
""",
}
# Python itself says nothing of these, at least outside its debug mode.
QUIET = {"a slow callback", "a coroutine that never ran", "a log line that does not fit"}
QUIET |= {"an event that cannot be written"}

# Every place in a child of its own, so that the program is imported once.
PROGRAM = """
import asyncio, ctypes, faulthandler, gc, json, os, socket, sys, time, traceback
from proxy import running
from proxy.environment import load
from proxy.crash import be_discreet
from proxy.log import configure, event

CANARY = os.environ["CANARY"]
config = load(None, {"HOME": "/nonexistent"})

def run(main):
    running.run(config, main)

def child(source):
    be_discreet()
    log = configure(config.log)
    try:
        exec(compile(source, "place", "exec"), globals())
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    log.stop()

for name, source in json.loads(os.environ["PLACES"]).items():
    print(f"== {name}", flush=True)
    pid = os.fork()
    if pid == 0:
        child(source)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
"""


def told(**environ):
    """What each place printed, by its name."""
    environ |= {"PATH": os.environ["PATH"], "CANARY": CANARY, "PLACES": json.dumps(PLACES)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=True,
    )
    parts = [part.partition("\n") for part in done.stdout.split("== ")[1:]]
    return {name: output for name, _, output in parts}


@pytest.mark.parametrize("debug", ["", "1"])
def test_no_output_quotes_an_error(debug):
    outputs = told(PYTHONASYNCIODEBUG=debug, PYTHONWARNINGS="default" if debug else "ignore")
    assert outputs.keys() == PLACES.keys()
    assert {name for name, text in outputs.items() if CANARY[:12] in text} == set()
    assert {name for name, text in outputs.items() if not text} <= QUIET


def test_a_developer_may_see_more():
    outputs = told(AGENT_TELEMETRY_DEBUG="1")
    assert CANARY in outputs["the main thread"]
    assert CANARY in outputs["a thread"]
