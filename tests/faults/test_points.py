"""kill -9 at named points, in the middle of writes too: nothing a client saw is lost or doubled."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.ledger import check, rows_of
from tests.e2e.provider import Load, Provider
from tests.e2e.stack import ROOT, Stack, until
from tests.faults.armed import SITE, armed
from tests.faults.scale import IS_FULL, left, note
from tests.faults.site.killpoints import POINTS, Point, arming

SUITE = "kill points"
KILLS = 10
SHORT = {  # one per layer
    "wire.tap Tap.request before",
    "wire.tap Tap.response after",
    "spool.writer os.writev END torn",
    "spool.journal os.pwrite torn",
    "store.postgres Store._committed before",
    "store.postgres Store._committed after",
}


def test_there_are_enough_points_and_each_is_somewhere():
    assert len(POINTS) >= 40
    assert len({point.name for point in POINTS}) == len(POINTS)
    assert {point.name for point in POINTS} >= SHORT
    modules = sorted({point.module for point in POINTS})
    program = f"import {', '.join(modules)}"
    environment = os.environ | {"PYTHONPATH": str(SITE), "FAULTS_ARMED": "/nowhere"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)


def test_the_program_itself_has_no_points():
    from proxy.wire.tap import Tap

    assert not hasattr(Tap.response, "__wrapped__")


async def test_a_kill_at_any_point_loses_and_doubles_nothing(tmp_path):
    points = [point for point in POINTS if IS_FULL or point.name in SHORT]
    provider = Provider()
    async with provider.serving() as upstream, armed(tmp_path, upstream) as stack:
        await stack.until_ready()
        for point in points:
            kills = left(SUITE, point.name, short=1, full=KILLS)
            if kills:
                await _killed_at(stack, provider, point, tmp_path, kills)


async def _killed_at(
    stack: Stack, provider: Provider, point: Point, directory: Path, kills: int
) -> None:
    load = Load(stack.url, per_second=30)
    async with load.running(point.name):
        for _ in range(kills):
            await _kill_once(stack, point, directory)
    rows = await rows_of(stack, provider, load.ledger)
    seen, cut = check(provider, load.ledger, rows)
    assert seen
    if point.role == "recorder":
        assert seen == len(load.ledger), "agents were harmed"
    note(SUITE, **{point.name: kills}, calls=len(load.ledger), seen=seen, cut=cut)


async def _kill_once(stack: Stack, point: Point, directory: Path) -> None:
    """Arm the point and wait until a process has died there and another has taken its place."""
    (before,) = stack.processes(point.role)
    arm = Path(arming(str(directory), point))
    arm.touch()
    try:
        await until(lambda: _is_gone(arm), "the point is passed", 3)
    except AssertionError:  # a point at the start of a process
        await stack.kill(point.role)
        await until(lambda: _is_gone(arm), f"{point.name} is passed")

    async def replaced() -> bool:
        return before not in stack.processes(point.role) and bool(stack.processes(point.role))

    await until(replaced, f"{point.role} is started again")
    if point.role == "gateway":
        await until(stack.is_serving, "the gateway answers")


async def _is_gone(path: Path) -> bool:
    await asyncio.sleep(0)
    return not path.exists()
