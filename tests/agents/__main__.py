"""Run the laboratory: every framework, with labels and without, through the real gateway.

    python -m tests.agents [AGENT …]

Keeps what was sent, prints how well it was understood, and fails where anything was not.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from bench.agents import report
from tests.agents.laboratory import run
from tests.agents.scenarios import scenarios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = list(dict.fromkeys(scenario.agent for scenario in scenarios()))
    parser.add_argument("agents", nargs="*", metavar="AGENT", help=", ".join(names))
    wanted = parser.parse_args().agents or names
    chosen = [scenario for scenario in scenarios() if scenario.agent in wanted]
    misses = 0
    for is_bare in (True, False):
        result = asyncio.run(run(chosen, is_bare=is_bare))
        title = "without any label" if is_bare else "as labelled"
        print(report(f"{len(chosen)} scenarios, {title}", result))
        misses += len(result.misses)
    return 1 if misses or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
