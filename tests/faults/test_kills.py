"""kill -9 of every process at random moments, under load: what a client has seen has its row."""

import asyncio
import random

import pytest

from tests.e2e.ledger import check, rows_of
from tests.e2e.provider import Load, Provider
from tests.e2e.stack import Stack
from tests.faults.armed import armed
from tests.faults.scale import left, note

SUITE = "random kills"
KILLS_SHORT, KILLS_FULL, ROUND = 2, 70, 10


@pytest.mark.parametrize("role", ["gateway", "recorder", "postgres"])
async def test_nothing_a_client_saw_is_lost(tmp_path, role):
    kills = left(SUITE, role, short=KILLS_SHORT, full=KILLS_FULL)
    if not kills:
        pytest.skip("done on this commit")
    provider = Provider()
    async with provider.serving() as upstream, armed(tmp_path, upstream) as stack:
        await stack.until_ready()
        for first in range(0, kills, ROUND):
            await _killed(stack, provider, role, min(ROUND, kills - first), f"{role}-{first}")


async def _killed(stack: Stack, provider: Provider, role: str, kills: int, name: str) -> None:
    load = Load(stack.url)
    async with load.running(name):
        for _ in range(kills):
            await asyncio.sleep(random.uniform(0.2, 0.6))
            await stack.kill(role)
        await asyncio.sleep(0.5)
    seen, cut = check(provider, load.ledger, await rows_of(stack, provider, load.ledger))
    assert seen > 10 * kills
    if role == "gateway":
        assert cut, "no call was in flight at a kill: the test proves nothing"
    else:
        assert seen == len(load.ledger), "agents were harmed"
    note(SUITE, **{role: kills}, calls=len(load.ledger), seen=seen, cut=cut)
