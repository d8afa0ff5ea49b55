"""What the drivers share: the tools, the instructions, and running what is asked for.

A driver runs in the environment of its framework, where nothing of this project is installed:
    python DRIVER.py GATEWAY_URL < scenarios.json
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

INSTRUCTIONS = "You are a careful assistant. Use the tools."
SUB_INSTRUCTIONS = "You do one small task and report."
MODEL = "laboratory-1"
PATHS = {"chat": "openai/v1", "responses": "openai/v1", "messages": "anthropic"}

Scenario = dict[str, Any]


def read(path: str) -> str:
    """Read a file."""
    return f"contents of {path}"


def write(path: str, text: str) -> str:
    """Write a file."""
    return f"wrote {len(text)} characters"


def search(query: str) -> str:
    """Search the index."""
    raise RuntimeError("the index is not there")


def fetch(url: str) -> str:
    """Fetch a page."""
    raise RuntimeError(f"cannot reach {url}")


def base_url(scenario: Scenario) -> str:
    return f"{sys.argv[1]}/{PATHS[scenario['dialect']]}"


def run_all(run: Callable[[Scenario, str], Awaitable[None]]) -> None:
    """Run each scenario, its twins at the same time. What fails is told; the others go on."""

    async def main() -> int:
        failed = 0
        for scenario in json.load(sys.stdin):
            found = await asyncio.gather(
                *(
                    run(scenario | {"headers": scenario["headers"][key]}, key)
                    for key in scenario["keys"]
                ),
                return_exceptions=True,
            )
            for error in found:
                if isinstance(error, BaseException):
                    failed += 1
                    print(f"{scenario['name']} failed:", file=sys.stderr)
                    traceback.print_exception(error, limit=-4, file=sys.stderr)
        return failed

    sys.exit(min(1, asyncio.run(main())))


def run_all_in_threads(run: Callable[[Scenario, str], None]) -> None:
    """The same for a framework that blocks."""
    run_all(lambda scenario, key: asyncio.to_thread(run, scenario, key))
