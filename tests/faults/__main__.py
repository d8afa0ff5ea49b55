"""`python -m tests.faults`: run every suite in full, as far as it was not run on this commit.

Then write `docs/faults.md` from what was counted. `report` writes it without running anything.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.faults.scale import ROOT, commit, figures

HERE = Path(__file__).parent
PAGE = ROOT / "docs" / "faults.md"
SUITES = (
    *("test_model", "test_corruption", "test_files", "test_points", "test_kills", "test_database"),
    *("test_outage", "test_streams", "test_gateway", "test_poison_call"),
)


def main(arguments: list[str]) -> int:
    failed = [] if arguments == ["report"] else [s for s in SUITES if not passes(s)]
    PAGE.write_text(page(figures()), encoding="utf-8")
    for suite in failed:
        sys.stderr.write(f"failed: {suite}\n")
    return bool(failed)


def passes(suite: str) -> bool:
    """Run one suite; what it counts is kept, also where it is interrupted."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{HERE}/{suite}.py"]
    return not subprocess.run(command, cwd=ROOT, env=os.environ | {"FAULTS": "full"}).returncode


def page(suites: dict[str, dict[str, float]]) -> str:
    """The figures as a page of the documentation."""

    def of(suite: str, figure: str) -> str:
        value = suites.get(suite, {}).get(figure)
        return "not run" if value is None else f"{value:,.6g}" if value < 10 else f"{value:,.0f}"

    def summed(suite: str, *without: str) -> str:
        found = suites.get(suite, {})
        return (
            f"{sum(v for k, v in found.items() if k not in without):,.0f}" if found else "not run"
        )

    counted = ("calls", "seen", "cut")
    points = [k for k in suites.get("kill points", {}) if k not in counted]
    rows = [
        (
            "Spool against a model: crashes, full disks, damage, a second instance",
            f"{of('spool model', 'sequences')} sequences of {of('spool model', 'actions_max')} "
            "actions, 0 violations",
        ),
        (
            "A segment cut at every length, and single bits flipped",
            f"{of('corruption', 'cuts')} cuts, {of('corruption', 'flips')} flips: neighbours kept",
        ),
        (
            "Each file operation of the spool failed, once and until mended",
            f"{of('file operations', 'tried')} failures: no crash, loss counted exactly",
        ),
        (
            "kill -9 at named points, in the middle of writes too",
            f"{summed('kill points', *counted)} kills at {len(points)} points over "
            f"{of('kill points', 'calls')} calls: 0 lost, 0 double",
        ),
        (
            "kill -9 at random of gateway, recorder and PostgreSQL",
            f"{summed('random kills', *counted)} kills over {of('random kills', 'calls')} calls: "
            "0 lost, 0 double",
        ),
        (
            "PostgreSQL conversation cut before, in and after each message, reset, stalled",
            f"{of('database', 'cuts')} cuts, {of('database', 'stalls')} stalls: 0 double, 0 lost",
        ),
        (
            "Poisonous values in three positions of a batch",
            f"{of('database', 'poison_first')} values: every row lands",
        ),
        (
            "PostgreSQL down while calls are made",
            f"{of('database down', 'calls')} calls; memory of gateway "
            f"{of('database down', 'gateway_growth_mb_max')} MB, of recorder "
            f"{of('database down', 'recorder_growth_mb_max')} MB; 0 lost, 0 double",
        ),
        (
            "Streams at once",
            f"{of('streams', 'streams')} for {of('streams', 'seconds_max')} s: 0 broken, gateway "
            f"{of('streams', 'gateway_mb_max')} MB",
        ),
        (
            "Soak with random faults",
            f"{of('soak', 'minutes')} minutes, {of('soak', 'faults')} faults, "
            f"{of('soak', 'calls')} calls: ledger equals table",
        ),
    ]
    table = "\n".join(f"| {what} | {result} |" for what, result in rows)
    return f"""# What was tried to break it

Written by `make faults` from what it counted on commit `{commit()}`. Each suite compares what
clients saw (a ledger of ids, bytes and outcomes) with the table, and fails on any difference.
A short form of each runs with `make test`.

| what | result |
|---|---|
{table}

The kill points are listed in `tests/faults/site/killpoints.py`. They wrap the program's functions
from outside; the program itself has none. `bench/faults.py` measures the time to the first byte
with PostgreSQL down, the disk full and the recorder dead.
"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
