"""kill -9 of servers, recorders and sidecars of a fleet in turn; then all servers away for long."""

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager

from tests.e2e.ledger import CALLS, check, rows_of
from tests.e2e.provider import Entry, Load, Provider
from tests.faults.scale import IS_FULL, note
from tests.fleet.fleet import Fleet
from tests.fleet.servers import needs_nats

pytestmark = needs_nats

SUITE = "fleet"
SIDECARS, RECORDERS, ROUNDS, AWAY_S = (6, 3, 6, 60.0) if IS_FULL else (2, 2, 1, 5.0)
SERVERS = 3
PER_SECOND = 5.0  # through each sidecar


@asynccontextmanager
async def loaded(fleet: Fleet, name: str):
    """Calls through all sidecars; gives a ledger for each."""
    async with AsyncExitStack() as stack:
        loads = [Load(each.url, PER_SECOND) for each in fleet.sidecars]
        for number, load in enumerate(loads):
            await stack.enter_async_context(load.running(f"{name}-{number}"))
        yield [load.ledger for load in loads]


async def compared(fleet: Fleet, provider: Provider, ledgers: list[list[Entry]]) -> tuple[int, int]:
    """Each call has its one row, and the sums say so too."""
    ledger = [entry for each in ledgers for entry in each]
    seen, cut = check(provider, ledger, await rows_of(fleet, provider, ledger))
    reading = await fleet.until_at_rest()
    rows = await fleet.fetch(f"SELECT count(*) AS n {CALLS}")
    assert reading.captured == reading.stored == rows[0]["n"]
    assert (reading.quarantined, sum(reading.lost.values())) == (0, 0)
    return seen, cut


async def test_nothing_is_lost_whoever_is_killed(tmp_path, dsn):
    provider = Provider()
    async with provider.serving() as upstream:
        fleet = Fleet(tmp_path, dsn, upstream, SERVERS, SIDECARS, RECORDERS)
        async with fleet.running():
            await _killed_in_turn(fleet, provider)
            await _servers_away(fleet, provider)


async def _killed_in_turn(fleet: Fleet, provider: Provider) -> None:
    kills = 0
    async with loaded(fleet, "kills") as ledgers:
        await asyncio.sleep(1)
        for number in range(ROUNDS):
            sidecar, recorder = number % SIDECARS, number % RECORDERS
            for deed, target in (
                (fleet.kill_server, number % SERVERS),
                (fleet.kill_recorder, recorder),
                (fleet.kill_worker, sidecar),
                (fleet.kill_forwarder, (sidecar + 1) % SIDECARS),
                (fleet.kill_sidecar, sidecar),
            ):
                await asyncio.sleep(random.uniform(0.1, 1.0))
                await deed(target)
                kills += 1
        await asyncio.sleep(0.5)
    seen, cut = await compared(fleet, provider, ledgers)
    harmed = sum(not entry.terminal for ledger in ledgers for entry in ledger)
    killed = [ledger for n, ledger in enumerate(ledgers) if n < min(ROUNDS, SIDECARS)]
    # Only calls through a worker that was killed, and those that found its sidecar away.
    assert harmed == sum(not entry.terminal for ledger in killed for entry in ledger)
    assert seen > kills
    note(SUITE, kills=kills, calls=sum(map(len, ledgers)), seen=seen, cut=cut)


async def _servers_away(fleet: Fleet, provider: Provider) -> None:
    async with loaded(fleet, "away") as ledgers:
        await asyncio.sleep(0.5)
        for number in range(SERVERS):
            fleet.servers.kill(number)
        await asyncio.sleep(AWAY_S)
        for number in range(SERVERS):
            fleet.servers.start(number)
        await asyncio.sleep(0.5)
    entries = [entry for ledger in ledgers for entry in ledger]
    assert all(entry.terminal for entry in entries), "agents were harmed"
    seen, _ = await compared(fleet, provider, ledgers)
    assert seen == len(entries)
    note(SUITE, away_calls=seen, away_s_max=AWAY_S)
