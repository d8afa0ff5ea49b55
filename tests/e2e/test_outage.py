"""PostgreSQL absent at start, and stopped under load: agents notice nothing, rows come later."""

import asyncio
import logging
import os
import statistics

from proxy.store.embedded import EmbeddedServer
from tests.e2e.provider import Entry, Load, Provider
from tests.e2e.stack import Stack, until

log = logging.getLogger(__name__)  # shown with --log-cli-level=INFO

CALLS = "SELECT id::text FROM agent_telemetry WHERE record_type = 'llm_call'"
OUTAGE_S = float(os.environ.get("OUTAGE_S", "6"))  # 60 before a release


async def test_calls_go_on_without_a_database(tmp_path):
    server = EmbeddedServer(tmp_path / "postgres")
    dsn = server.start()
    server.stop()
    provider = Provider(pause_s=0.01)
    try:
        async with (
            provider.serving() as upstream,
            Stack(tmp_path / "data", upstream, STORE__DSN=dsn) as stack,
        ):
            absent = await load(stack, "absent", OUTAGE_S / 2)
            assert await stack.readiness() == "degraded"
            server.start()
            await stack.until_ready()
            healthy = await load(stack, "healthy", OUTAGE_S)
            server.stop()
            stopped = await load(stack, "stopped", OUTAGE_S)
            server.start()
            await check_rows(stack, absent + healthy + stopped)
    finally:
        server.stop()
    for entries in (absent, healthy, stopped):
        assert [entry.error for entry in entries if not entry.ended] == []
    log.info(
        "p50 of the first byte: healthy %.2f ms, absent %.2f ms, stopped %.2f ms",
        *(p50_ms(entries) for entries in (healthy, absent, stopped)),
    )


async def load(stack: Stack, name: str, seconds: float) -> list[Entry]:
    async with Load(stack.url).running(name) as running:
        await asyncio.sleep(seconds)
    return running.ledger


def p50_ms(entries: list[Entry]) -> float:
    return 1000 * statistics.median(e.first_byte_s for e in entries if e.first_byte_s and e.stream)


async def check_rows(stack: Stack, entries: list[Entry]) -> None:
    wanted = {entry.row_id for entry in entries}
    assert len(wanted) == len(entries) > 100

    async def all_stored() -> bool:
        rows = await stack.fetch(CALLS)
        return {row["id"] for row in rows} == wanted and len(rows) == len(wanted)

    await stack.until_ready()
    await until(all_stored, "every call has exactly one row")
