"""kill -9 of every process in turn, under load: whatever a client has seen has its row."""

import asyncio
import json
import random

import pytest

from tests.e2e.provider import Entry, Load, Provider, text_of
from tests.e2e.stack import Stack, until

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
        rows = await _rows(stack, provider.called, load.ledger)
    _check(role, provider, load.ledger, rows)


async def _rows(stack: Stack, called: set[str], ledger: list[Entry]) -> dict[str, list]:
    """All rows by session, once every call that reached the provider has one."""
    found: dict[str, list] = {}
    query = "SELECT * FROM agent_telemetry WHERE record_type = 'llm_call'"

    async def complete() -> bool:
        found.clear()
        for row in await stack.fetch(query):
            found.setdefault(row["session_id"], []).append(row)
        return called | {e.name for e in ledger if e.terminal} <= found.keys()

    await stack.until_ready()
    await until(complete, "every call has a row")
    return found


def _check(role: str, provider: Provider, ledger: list[Entry], rows: dict[str, list]) -> None:
    assert all(len(found) == 1 for found in rows.values()), "double rows"
    seen = [entry for entry in ledger if entry.terminal]
    cut = [entry for entry in ledger if not entry.terminal and entry.name in provider.called]
    assert len(seen) > 100
    if role == "gateway":
        assert cut, "no call was in flight at a kill: the test proves nothing"
    else:
        assert len(seen) == len(ledger), "agents were harmed"
    for entry in seen:
        _check_whole(entry, rows[entry.name][0])
    for entry in cut:
        _check_cut(entry, rows[entry.name][0])


def _check_whole(entry: Entry, row) -> None:
    assert row["outcome"] == "complete", entry
    assert row["response_text"] == text_of(entry.name)
    assert [c["arguments"] for c in json.loads(row["tool_calls"])] == [{"call": entry.name}]
    assert str(row["id"]) == entry.row_id
    if entry.ended:
        assert json.loads(row["capture"])["response_sha256"] == entry.sha256


def _check_cut(entry: Entry, row) -> None:
    """A call that was in flight: what passed is kept, at least what the client received."""
    assert row["outcome"] in ("proxy_crashed", "complete")
    assert row["user_message"] == entry.name
    capture = json.loads(row["capture"])
    assert capture["response_bytes"] >= len(entry.body)
    if row["outcome"] == "proxy_crashed" and row["response_text"]:
        assert text_of(entry.name).startswith(row["response_text"])
