"""A fleet gives the same table as one machine, and shows itself as a whole."""

import aiohttp

from tests.e2e.stack import Stack, free_port, until
from tests.faults.scale import IS_FULL, note
from tests.fleet.conversations import expected_turns, judged, provider, talk
from tests.fleet.fleet import Fleet
from tests.fleet.servers import needs_nats

pytestmark = needs_nats

CONVERSATIONS, SIDECARS, RECORDERS = (200, 6, 3) if IS_FULL else (30, 2, 2)


async def until_judged(fetch, count: int) -> None:
    asked = (
        "SELECT count(*) FILTER (WHERE stop_reason IS NOT NULL) AS turns, "
        "(SELECT count(*) FROM agent_links WHERE is_pending OR due_at IS NOT NULL) AS open "
        "FROM agent_telemetry WHERE record_type = 'turn_summary'"
    )

    async def all_judged() -> bool:
        (row,) = await fetch(asked)
        return (row["turns"], row["open"]) == (expected_turns(count), 0)

    await until(all_judged, "all turns are judged", 180)


async def test_conversations_over_a_fleet_are_judged_as_on_one_machine(tmp_path, dsn, other_dsn):
    async with provider() as upstream:
        fleet = Fleet(tmp_path, dsn, upstream, 3 if IS_FULL else 1, SIDECARS, RECORDERS)
        async with fleet.running():
            await talk([sidecar.url for sidecar in fleet.sidecars], CONVERSATIONS)
            await until_judged(fleet.fetch, CONVERSATIONS)
            over_fleet = await judged(fleet.fetch)
            await _shows_itself(fleet, tmp_path)
        alone = Stack(tmp_path / "alone", upstream, STORE__DSN=other_dsn, TURNS__IDLE_S="2")
        async with alone:
            await talk([alone.url], CONVERSATIONS)
            await until_judged(alone.fetch, CONVERSATIONS)
            on_one = await judged(alone.fetch)
    assert len(on_one[0]) == expected_turns(CONVERSATIONS)
    assert over_fleet == on_one
    note("fleet turns", conversations=CONVERSATIONS, turns=len(on_one[0]), calls=len(on_one[1]))


async def _shows_itself(fleet: Fleet, tmp_path) -> None:
    """`spool status` and the metrics tell of all members, wherever they are asked."""
    stored = (await fleet.until_at_rest()).stored
    assert stored > 0

    async def is_said() -> bool:  # each member speaks now and then
        found = (await fleet.reading()).recorders
        return sum(each.stored for each in found) >= stored

    await until(is_said, "recorders have said what they stored", 60)
    reading = await fleet.reading()
    assert (len(reading.gateways), len(reading.recorders)) == (SIDECARS, RECORDERS)
    said = fleet.sidecars[0].command("spool", "status")
    assert said.returncode == 0, said.stderr
    assert f"{SIDECARS} gateways, {RECORDERS} recorders" in said.stdout
    assert said.stdout.count(" live") == SIDECARS + RECORDERS
    settings = fleet.servers.environment(STORE__DSN=fleet.dsn)
    central = Stack(tmp_path / "central", "http://127.0.0.1:1", role="admin", **settings)
    central.is_serving = _is_up(central)  # type: ignore[method-assign]
    async with (
        central,
        aiohttp.ClientSession() as session,
        session.get(f"{central.admin_url}/metrics") as metrics,
        session.get(f"{central.admin_url}/health", headers={"Accept": "text/html"}) as health,
    ):
        shown, page = await metrics.text(), await health.text()
        assert health.status == 200
    assert page.count(">gateway</span>") == SIDECARS
    assert page.count(">recorder</span>") == RECORDERS
    for line in (
        "agent_telemetry_fleet_up 1.0",
        f'agent_telemetry_fleet_gateways{{state="live"}} {SIDECARS:.1f}',
        f'agent_telemetry_fleet_recorders{{state="live"}} {RECORDERS:.1f}',
        f"agent_telemetry_fleet_calls_stored_total {reading.stored:.1f}",
        f"agent_telemetry_fleet_calls_captured_total {reading.captured:.1f}",
        "agent_telemetry_fleet_calls_waiting 0.0",
    ):
        assert line in shown


def _is_up(stack: Stack):
    async def is_up() -> bool:
        return await stack.readiness() is not None

    return is_up


async def test_without_servers_a_sidecar_serves_and_says_so(tmp_path):
    settings = {"SPOOL__TRANSPORT": "nats", "NATS__SERVERS": f"nats://127.0.0.1:{free_port()}"}
    async with (
        provider() as upstream,
        Stack(tmp_path / "alone", upstream, role="gateway", **settings) as stack,
    ):
        await talk([stack.url], 2)
        said = stack.command("spool", "status")
        assert said.returncode == 1
        assert said.stderr.startswith("agent-telemetry: NATS: nats://127.0.0.1:")
        assert len(said.stderr.splitlines()) == 1
        here = stack.command("spool", "status", "--local")
        assert here.returncode == 0
        assert "waiting" in here.stdout
