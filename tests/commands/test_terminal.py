"""What only a terminal gets: colours and progress bars; and that lines fit 100 columns."""

import asyncio
import fcntl
import json
import os
import pty
import random
import re
import struct
import subprocess
import sys
import termios

import pytest

from proxy.cli_read import REPORT_NAMES
from tests.e2e.stack import ROOT
from tests.turns.scripts import Talk
from tests.turns.test_linker import linked

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SINCE = ("--since", "2026-01-01")


@pytest.fixture
def environ(dsn, tmp_path):
    long = "a question that is much longer than what a line of a terminal has room for " * 3
    talk = Talk("thread-" + "x" * 60)
    talk.user(long).call("hm", [("read_a_file_with_a_long_name", {"path": "a" * 200})])
    talk.results("y" * 300).call("done " * 50, model_used="a-model-with-a-long-name-2026-01-01")
    odd = {"problems": ["something that a decoder could not read, told at length: " + "z" * 200]}
    talk.user("odd").call("ok", capture=odd, client="a-client/" + "1" * 80, endpoint="messages")
    talk.user("again").call(None, outcome="upstream_error", status=429, error="slow down " * 20)
    asyncio.run(linked(dsn, talk.records, random.Random(0)))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AGENT_TEL", "NO_COLOR"))}
    return {
        **kept,
        "DATABASE_URL": dsn,
        "AGENT_TELEMETRY__DATA_DIR": str(tmp_path),
        "TERM": "xterm-256color",
    }


def piped(environ, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        env=environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def on_terminal(environ, *arguments, columns=100, answer=b""):
    """What a command prints on a terminal of so many columns where that is typed ahead."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        env=environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.write(ours, answer)
    os.close(theirs)
    found = b""
    try:
        while chunk := os.read(ours, 65536):
            found += chunk
    except OSError:  # Linux: the other side is closed
        pass
    os.close(ours)
    return process.wait(60), found.decode()


def test_colours_are_for_terminals(environ):
    code, shown = on_terminal(environ, "tail")
    assert code == 0
    assert "\x1b[31m" in shown  # the call that failed
    assert "\x1b" not in piped(environ, "tail").stdout


@pytest.mark.parametrize("wish", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_who_wants_no_colours_gets_none(environ, wish):
    code, shown = on_terminal(environ | wish, "tail")
    assert code == 0
    assert "\x1b" not in shown


def test_a_refusal_to_delete_is_told(environ):
    code, shown = on_terminal(environ, "purge", "--before", "0s", answer=b"n\n")
    assert code == 1
    assert "agent-telemetry: nothing was deleted" in shown


def test_progress_is_for_terminals(environ, tmp_path):
    export = ("export", "--format", "jsonl", "--out", str(tmp_path / "x.jsonl"))
    _, shown = on_terminal(environ, *export)
    assert "rows" in shown
    assert "%" in shown
    done = piped(environ, *export)
    assert done.stderr == ""
    assert "%" not in done.stdout


def test_the_doctor_has_something_to_say(environ):
    done = piped(environ, "doctor", *SINCE)
    assert done.returncode == 1
    assert "could not read" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("tail",),
        ("tail", "--turns"),
        ("replay", "thread-" + "x" * 60),
        ("report", *SINCE),
        ("doctor", *SINCE),
        *(("report", name, *SINCE) for name in REPORT_NAMES),
    ],
    ids=" ".join,
)
def test_lines_fit_a_terminal_of_100_columns(environ, arguments):
    code, shown = on_terminal(environ, *arguments)
    assert code in (0, 1), shown
    lines = ESCAPE.sub("", shown).splitlines()
    assert lines
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    "arguments",
    [
        ("tail", "--json"),
        ("tail", "--turns", "--json"),
        ("replay", "thread-" + "x" * 60, "--json"),
    ],
    ids=" ".join,
)
def test_json_is_an_object_a_line(environ, arguments):
    lines = piped(environ, *arguments).stdout.splitlines()
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_letters_that_the_output_lacks_are_shown_by_their_code(environ):
    done = piped(environ | {"PYTHONIOENCODING": "latin-1"}, "tail")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2192" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("arguments", ["tail", "report", "--help"])
def test_an_output_that_is_full_is_told(environ, arguments):
    command = [sys.executable, "-m", "proxy", *arguments.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, cwd=ROOT, env=environ, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"agent-telemetry: the output: No space left on device\n"


def test_nobody_is_asked_where_nothing_can_be_read(environ):
    command = f"{sys.executable} -m proxy purge --before 0s <&-"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environ, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"repeat with --yes" in done.stderr


@pytest.mark.parametrize("arguments", ["tail --json", "--help", "--version", "tail --help"])
def test_a_reader_that_leaves_is_no_failure(environ, arguments):
    command = f"{sys.executable} -m proxy {arguments} | true; echo ${{PIPESTATUS}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
