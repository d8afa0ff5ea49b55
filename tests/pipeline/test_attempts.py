"""A call that ends the process which looks into it is given up after the third time."""

import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from proxy.attempts import TRIES_MAX, Attempts

GOOD, BAD = UUID(int=1 << 70 | 1), UUID(int=2 << 70 | 2)
WORK = f"""
import os, re, signal, sys
from pathlib import Path
from uuid import UUID
from proxy import attempts
attempts.LIMIT_S = float(sys.argv[2])
noted = attempts.Attempts(Path(sys.argv[1]))
with noted.batch(0):
    for id in (UUID({str(GOOD)!r}), UUID({str(BAD)!r})):
        if noted.are_spent(id):
            print("given up", id)
            continue
        with noted.at(id):
            if id.int & 2:
                exec(sys.argv[3])
"""
DEATHS = {
    "exit": "os._exit(3)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "error": "raise MemoryError",
    "hang": "signal.pause()",
    "hang in a library": "re.match('(a+)+$', 'a' * 60 + 'b')",
}


def work(path: Path, limit_s: float, deed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WORK, str(path), str(limit_s), deed]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("deed", DEATHS.values(), ids=DEATHS)
def test_a_fatal_call_is_given_up_after_the_third_time(tmp_path, deed):
    page = tmp_path / "attempts"
    limit_s = 0.2 if deed in (DEATHS["hang"], DEATHS["hang in a library"]) else 30
    for _ in range(TRIES_MAX):
        died = work(page, limit_s, deed)
        assert died.returncode != 0
        assert "given up" not in died.stdout
    done = work(page, limit_s, deed)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"given up {BAD}\n"


def test_who_dies_between_two_batches_blames_no_call(tmp_path):
    for _ in range(TRIES_MAX + 1):
        attempts = Attempts(tmp_path / "attempts")
        assert not attempts.are_spent(BAD)
        with attempts.batch(0), attempts.at(BAD):
            pass


def test_a_success_clears_a_call(tmp_path):
    page = tmp_path / "attempts"
    for _ in range(TRIES_MAX - 1):
        Attempts(page).at(BAD).__enter__()  # and no more: the process died
    survivor = Attempts(page)
    with survivor.batch(0), survivor.at(BAD):
        pass
    Attempts(page).at(BAD).__enter__()
    assert not Attempts(page).are_spent(BAD)


def test_many_fatal_calls_fit_the_page(tmp_path):
    page = tmp_path / "attempts"
    for number in range(100):
        for _ in range(TRIES_MAX):
            Attempts(page).at(UUID(int=number + 1)).__enter__()
    assert Attempts(page).are_spent(UUID(int=100))


def test_without_a_page_calls_are_assembled_all_the_same(tmp_path):
    (tmp_path / "attempts").mkdir()
    attempts = Attempts(tmp_path / "attempts")
    with attempts.batch(0), attempts.at(GOOD):
        assert not attempts.are_spent(GOOD)
