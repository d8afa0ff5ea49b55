"""Laboratory: real frameworks against scripted answers, through the real gateway.

Each framework has an environment of its own under `.agents`, made when first needed. A run starts
`serve` with a database of its own, runs every driver with labels and without, keeps what was sent,
and compares what was recorded with what is true by construction.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import UUID

from bench.agents import compared
from tests.agents.kept import keep, recorded
from tests.agents.provider import Provider, Sent
from tests.agents.script import Scenario
from tests.e2e.stack import ROOT, Stack, until
from tests.turns.recorded import Comparison

ENVIRONMENTS = ROOT / ".agents"
DRIVERS = Path(__file__).parent / "drivers"
DRIVER_S = 300.0
IDLE_S = 4
ROWS = """
SELECT id, capture ->> 'request_sha256' AS request, capture ->> 'response_sha256' AS response,
    outcome = 'complete' AS is_whole
FROM agent_telemetry WHERE record_type = 'llm_call' ORDER BY created_at, id
"""
_PYTHON: dict[str, tuple[str, ...]] = {
    "openai_agents": ("openai-agents",),
    "pydantic_ai_agent": ("pydantic-ai-slim[openai,anthropic]",),
    "langgraph_agent": ("langgraph", "langchain", "langchain-openai", "langchain-anthropic"),
    "anthropic_runner": ("anthropic",),
    "smolagents_agent": ("smolagents[openai]",),
}
_NODE = {"vercel_ai": ("ai", "@ai-sdk/openai", "@ai-sdk/anthropic", "zod")}


def command_of(agent: str) -> list[str]:
    """How to start a driver; makes its environment where there is none."""
    if agent == "raw":
        return [sys.executable, str(DRIVERS / "raw.py")]
    folder = ENVIRONMENTS / agent
    if agent in _NODE:
        if not (folder / "made").exists():
            folder.mkdir(parents=True, exist_ok=True)
            _call(
                "npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *_NODE[agent]
            )
            (folder / "made").touch()
        link = folder / "driver.mjs"  # modules are looked for beside the file
        link.write_text((DRIVERS / f"{agent}.mjs").read_text())
        return ["node", str(link)]
    if not (folder / "made").exists():
        _call(sys.executable, "-m", "venv", str(folder))
        python = str(folder / "bin" / "python")
        _call(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *_PYTHON[agent])
        (folder / "made").touch()
    return [str(folder / "bin" / "python"), str(DRIVERS / f"{agent}.py")]


def _call(*command: str) -> None:
    print(f"laboratory: {' '.join(command)}", file=sys.stderr)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


async def drive(agent: str, url: str, scenarios: Sequence[Scenario], *, is_labelled: bool) -> str:
    """Run scenarios of one agent; what its driver had to say about failures."""
    told = []
    for scenario in scenarios:
        keys = scenario.scripts()
        headers = {key: scenario.headers_of(key) if is_labelled else {} for key in keys}
        told.append(scenario.for_driver() | {"headers": headers})
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(
        *await asyncio.to_thread(command_of, agent),
        url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment | {"PYTHONWARNINGS": "ignore", "NO_COLOR": "1"},
        cwd=ROOT,
    )
    async with asyncio.timeout(DRIVER_S):
        _, said = await process.communicate(json.dumps(told).encode())
    return said.decode() if process.returncode else ""


async def run(scenarios: Sequence[Scenario], *, is_bare: bool) -> Comparison:
    """Run all drivers at once and compare the rows with the truth. Keeps what was sent bare."""
    provider = Provider.of(scenarios)
    by_agent: dict[str, list[Scenario]] = defaultdict(list)
    for scenario in scenarios:
        by_agent[scenario.agent].append(scenario)
    with tempfile.TemporaryDirectory() as directory:
        async with provider.serving() as upstream:
            stack = Stack(Path(directory) / "data", upstream, TURNS__IDLE_S=str(IDLE_S))
            async with stack:
                await stack.until_ready()
                said = await asyncio.gather(
                    *(
                        drive(agent, stack.url, found, is_labelled=not is_bare)
                        for agent, found in by_agent.items()
                    )
                )
                check(provider, said)
                if is_bare:
                    for agent, found in by_agent.items():
                        keep(agent, found, provider.sent)
                ids = await row_ids(stack, provider.sent)
                return await compared(stack, recorded(scenarios, is_bare=is_bare), ids)


def check(provider: Provider, said: Iterable[str]) -> None:
    """Raises where an agent asked more or less than was scripted: then nothing is true of it."""
    problems = [text for text in said if text]
    seen = Counter(sent.key for sent in provider.sent)
    for key, script in provider.scripts.items():
        if seen[key] != len(script):
            problems.append(f"{key}: {seen[key]} requests, {len(script)} answers are scripted")
    if problems:
        raise RuntimeError("\n".join(problems))


async def row_ids(stack: Stack, sent: Sequence[Sent]) -> dict[str, UUID]:
    """The row of each request: by its bytes, those of the answer, and the order of arrival."""

    async def are_stored() -> bool:
        return len(await stack.fetch(ROWS)) == len(sent)

    await until(are_stored, f"{len(sent)} rows are stored")
    rows: dict[tuple[str, str | None], list[UUID]] = defaultdict(list)
    for row in await stack.fetch(ROWS):
        rows[row["request"], row["response"] if row["is_whole"] else None].append(row["id"])
    return {f"{each.key}/{each.number}": rows[each.digests].pop(0) for each in sent}
