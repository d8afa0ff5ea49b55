"""A call that ends every process which decodes it: it is set aside, and the others go on."""

import pytest

from tests.e2e.ledger import check, rows_of
from tests.e2e.provider import Entry, Load, Provider
from tests.e2e.stack import Stack, until
from tests.faults.armed import armed


@pytest.mark.parametrize("name", ["poison", "hanging"])
async def test_a_call_that_ends_its_decoder_is_quarantined_and_holds_nobody_up(tmp_path, name):
    """It ends the process, or never comes back, which ends the process in time."""
    provider = Provider(pause_s=0)
    async with provider.serving() as upstream:
        stack = armed(tmp_path, upstream)
        stack.environment["FAULTS_BATCH_LIMIT_S"] = "5"
        async with stack:
            await stack.until_ready()
            load = Load(stack.url)
            async with load.running("before"):
                await load.until(10)
            for prefix, more in ((name, 1), ("after", 10)):
                ended = len(load.ledger)  # those of the last load all have
                async with load.running(prefix):
                    await load.until(ended + more)
            poisoned = [entry for entry in load.ledger if entry.name.startswith(name)]
            await _set_aside(stack, poisoned)
            others = [entry for entry in load.ledger if entry not in poisoned]
            seen, _ = check(provider, others, await rows_of(stack, provider, others))
    assert seen == len(others) >= 20


async def _set_aside(stack: Stack, entries: list[Entry]) -> None:
    assert entries
    ids = [entry.row_id for entry in entries]

    async def done() -> bool:
        found = await stack.fetch("SELECT id::text, exchange FROM agent_raw WHERE reason <> ''")
        return {row["id"] for row in found if row["exchange"]} == set(ids)

    await until(done, "the calls are quarantined with their bytes")
    rows = await stack.fetch("SELECT * FROM agent_telemetry WHERE id::text = ANY($1)", ids)
    assert len(rows) == len(ids)
    assert all(row["user_message"] is None and row["status"] == 200 for row in rows)
