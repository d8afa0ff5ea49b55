"""Soak: calls for a long time and a random fault now and then; in the end ledger equals table.

`make soak MINUTES=60`. Memory and descriptors are looked at after a third and at the end.
"""

import asyncio
import os
import random
import signal
from pathlib import Path

from tests.e2e.ledger import check, rows_of
from tests.e2e.provider import Load, Provider
from tests.e2e.stack import Stack, until
from tests.faults.armed import armed
from tests.faults.scale import note
from tests.faults.test_outage import resident_mb

SUITE = "soak"
MINUTES = float(os.environ.get("SOAK_MINUTES", "0"))
FAULT_EVERY_S = 60 if MINUTES else 1
FAULTS = max(2, int(MINUTES * 60 / FAULT_EVERY_S))
GROWTH_MB_MAX = 20
PAUSE_S = 5 if MINUTES else 1


async def test_ledger_equals_table_after_random_faults(tmp_path):
    provider = Provider()
    async with provider.serving() as upstream, armed(tmp_path, upstream) as stack:
        await stack.until_ready()
        sizes: list[dict[str, float]] = []
        ledger = []
        for number in range(FAULTS):
            load = Load(stack.url, per_second=20)
            async with load.running(f"soak-{number}"):
                await asyncio.sleep(FAULT_EVERY_S / 2)
                harm = await _fault(stack)
                await asyncio.sleep(FAULT_EVERY_S / 2)
            seen, _ = check(provider, load.ledger, await rows_of(stack, provider, load.ledger))
            assert seen == len(load.ledger) or harm == "gateway"
            ledger += load.ledger
            sizes.append(_sizes(stack))
        rows = await stack.fetch(
            "SELECT count(*) AS n FROM agent_telemetry WHERE record_type = 'llm_call'"
        )
    assert rows[0]["n"] == len(provider.called)
    note(SUITE, minutes=MINUTES, faults=FAULTS, calls=len(ledger))
    if MINUTES >= 10:
        early, late = sizes[len(sizes) // 3], sizes[-1]
        growth = {name: round(late[name] - early[name], 1) for name in late}
        note(SUITE, **{f"{name}_growth_max": growth[name] for name in growth})
        assert all(value <= GROWTH_MB_MAX for value in growth.values()), growth


async def _fault(stack: Stack) -> str:
    """Do something to a process; the role that it was done to."""
    role = random.choice(["gateway", "recorder", "postgres", "admin"])
    if random.random() < 0.5 and role in ("recorder", "admin"):
        await _held(stack, role)
    else:
        await stack.kill(role)
    return role


async def _held(stack: Stack, role: str) -> None:
    """It stands still for a while, as on a machine without a processor to spare."""
    (pid,) = stack.processes(role)
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(PAUSE_S)
    finally:
        os.kill(pid, signal.SIGCONT)

    async def answers() -> bool:
        return bool(stack.processes(role))

    await until(answers, f"{role} goes on")


def _sizes(stack: Stack) -> dict[str, float]:
    """Memory in MB and open descriptors of the processes that live long."""
    (gateway,) = stack.processes("gateway")
    assert stack.process is not None
    return {
        "gateway_mb": resident_mb(gateway),
        "gateway_descriptors": len(list(Path(f"/proc/{gateway}/fd").iterdir())),
        "supervisor_mb": resident_mb(stack.process.pid),
    }
