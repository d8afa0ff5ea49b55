"""Scale: how much of a suite runs now, and what was counted.

`make test` runs a short form of each suite and writes nothing. `make faults` runs all of it
(`FAULTS=full`) and adds up figures per commit in `build/faults.json`, so that a run that was
interrupted goes on where it stopped. Figures whose name ends in `_max` keep the largest value.
"""

import fcntl
import functools
import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "faults.json"
IS_FULL = os.environ.get("FAULTS") == "full"


@functools.cache
def commit() -> str:
    """What is tested; a change that is not committed shows, but for the page of figures itself."""
    head = _git("rev-parse", "--short=12", "HEAD") or "unknown"
    changed = _git("status", "--porcelain", "--", ":/", ":(exclude,top)docs/faults.md")
    return f"{head}-dirty" if changed else head


def _git(*arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


def left(suite: str, figure: str, *, short: int, full: int) -> int:
    """How many are still to be run of what `make faults` is to reach on this commit."""
    return max(0, full - int(figures().get(suite, {}).get(figure, 0))) if IS_FULL else short


def note(suite: str, **found: float) -> None:
    """Add to a suite's figures."""
    if not IS_FULL:
        return
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS.with_suffix(".lock"), "w") as lock:  # suites may run beside each other
        fcntl.flock(lock, fcntl.LOCK_EX)
        _add(suite, found)


def _add(suite: str, found: dict[str, float]) -> None:
    suites = figures()
    known = suites.setdefault(suite, {})
    for name, value in found.items():
        before = known.get(name, 0)
        known[name] = max(before, value) if name.endswith("_max") else before + value
    beside = RESULTS.with_suffix(".new")
    beside.write_text(json.dumps({"commit": commit(), "suites": suites}, indent=1, sort_keys=True))
    beside.replace(RESULTS)


def figures() -> dict[str, dict[str, float]]:
    """What was counted on this commit so far, by suite."""
    try:
        kept = json.loads(RESULTS.read_text())
    except (OSError, ValueError):
        return {}
    return kept["suites"] if kept["commit"] == commit() else {}
