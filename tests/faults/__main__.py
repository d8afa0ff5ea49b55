"""`python -m tests.faults [SUITE …]`: run suites in full, as far as not done on this commit.

Without names all of them. Then write `docs/faults.md` from what was counted. `report` writes it
without running anything.
"""

import os
import subprocess
import sys

from tests.faults.report import PAGE, is_reached, page
from tests.faults.scale import ROOT, commit, figures

SUITES = {
    "model": ("tests/faults/test_model.py",),
    "corruption": ("tests/faults/test_corruption.py",),
    "power": ("tests/faults/test_power.py",),
    "recovery": ("tests/faults/test_recovery.py",),
    "files": ("tests/faults/test_files.py",),
    "database": ("tests/faults/test_database.py",),
    "outage": ("tests/faults/test_outage.py",),
    "streams": ("tests/faults/test_streams.py",),
    "http": ("tests/http/test_generated.py", "tests/http/test_mutated.py"),
    "kills": ("tests/faults/test_kills.py",),
    "points": ("tests/faults/test_points.py",),
    "gateway": (
        *("tests/faults/test_gateway.py", "tests/faults/test_poison_call.py"),
        *("tests/faults/test_agents.py", "tests/faults/test_clock.py"),
    ),
    "first_byte": ("tests/faults/test_first_byte.py",),
}


def main(arguments: list[str]) -> int:
    if unknown := set(arguments) - SUITES.keys() - {"report"}:
        sys.stderr.write(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}\n")
        return 2
    names = [] if arguments == ["report"] else arguments or list(SUITES)
    failed = [name for name in names if not passes(name)]
    PAGE.write_text(page(figures(), commit()), encoding="utf-8")
    for name in failed:
        sys.stderr.write(f"failed: {name}\n")
    return bool(failed) or (not arguments and not is_reached(figures()))


def passes(name: str) -> bool:
    """Run one suite; what it counts is kept, also where it is interrupted."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES[name]]
    return not subprocess.run(command, cwd=ROOT, env=os.environ | {"FAULTS": "full"}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
