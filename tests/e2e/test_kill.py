"""kill -9 of every process in turn, under load: whatever a client has seen has its row."""

import asyncio
import random

import pytest

from tests.e2e.ledger import check, rows_of
from tests.e2e.provider import Load, Provider
from tests.e2e.stack import Stack

KILLS = 10


@pytest.mark.parametrize("role", ["gateway", "recorder", "postgres"])
async def test_nothing_a_client_saw_is_lost(tmp_path, role):
    provider = Provider()
    async with provider.serving() as upstream, Stack(tmp_path / "data", upstream) as stack:
        await stack.until_ready()
        load = Load(stack.url)
        async with load.running(role):
            for _ in range(KILLS):
                await asyncio.sleep(random.uniform(0.2, 0.6))
                await stack.kill(role)
            await asyncio.sleep(0.5)
        rows = await rows_of(stack, provider, load.ledger)
    seen, cut = check(provider, load.ledger, rows)
    assert seen > 100
    if role == "gateway":
        assert cut, "no call was in flight at a kill: the test proves nothing"
    else:
        assert seen == len(load.ledger), "agents were harmed"
