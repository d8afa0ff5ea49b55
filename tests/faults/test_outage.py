"""PostgreSQL gone while calls go on: memory stays flat, and each call has its one row."""

import asyncio
import contextlib
from pathlib import Path

import aiohttp
import pytest

from proxy.store.embedded import EmbeddedServer
from tests.e2e.provider import Provider
from tests.e2e.stack import Stack, until
from tests.faults.scale import IS_FULL, figures, note

SUITE = "database down"
CALLS = 20_000 if IS_FULL else 300
AT_ONCE = 32
GROWTH_MB_MAX = 10


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
async def test_memory_is_flat_and_every_call_has_its_row(tmp_path):
    if IS_FULL and figures().get(SUITE, {}).get("calls"):
        pytest.skip("done on this commit")
    server = EmbeddedServer(tmp_path / "postgres")
    dsn = server.start()
    provider = Provider(pause_s=0)
    try:
        async with (
            provider.serving() as upstream,
            Stack(tmp_path / "data", upstream, STORE__DSN=dsn) as stack,
        ):
            await stack.until_ready()
            ids = await calls(stack, CALLS // 10)  # so that every buffer has its size
            await until(lambda: stored(stack, ids), "the first calls are stored")
            server.stop()
            ids |= await calls(stack, CALLS // 10)
            before = memory(stack)
            ids |= await calls(stack, CALLS - CALLS // 5)
            after = memory(stack)
            server.start()
            await until(lambda: stored(stack, ids), "every call has exactly one row", 1200)
    finally:
        server.stop()
    growth = {role: round(after[role] - before[role], 1) for role in before}
    note(SUITE, calls=len(ids), **{f"{role}_growth_mb_max": growth[role] for role in growth})
    assert len(ids) == CALLS
    if IS_FULL:  # a short form is too short to tell growth from warming up
        assert all(mb <= GROWTH_MB_MAX for mb in growth.values()), growth


def memory(stack: Stack) -> dict[str, float]:
    return {
        role: sum(resident_mb(pid) for pid in stack.processes(role))
        for role in ("gateway", "recorder")
    }


async def calls(stack: Stack, count: int) -> set[str]:
    """So many calls, some at once, streamed and not in turn; the ids of their rows."""
    ids: set[str] = set()
    numbers = iter(range(count))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def agent() -> None:
            for number in numbers:
                ids.add(await one_call(session, stack.url, number))

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(agent())
    return ids


async def one_call(session: aiohttp.ClientSession, url: str, number: int) -> str:
    body = {"model": "scripted-1", "messages": [{"role": "user", "content": f"call {number}"}]}
    if number % 2:
        body["stream"] = True
    async with session.post(f"{url}/openai/v1/chat/completions", json=body) as answer:
        assert answer.status == 200
        await answer.read()
        return answer.headers["x-agent-telemetry-id"]


async def stored(stack: Stack, ids: set[str]) -> bool:
    with contextlib.suppress(OSError):
        rows = await stack.fetch(
            "SELECT id::text FROM agent_telemetry WHERE record_type = 'llm_call'"
        )
        return len(rows) == len(ids) and {row["id"] for row in rows} == ids
    return False
