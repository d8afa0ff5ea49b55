"""What a scrape of the running program holds: valid, documented, and with the promised names."""

import shutil
import subprocess

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.docs.catalogue import declared
from tests.e2e.provider import Load, Provider
from tests.e2e.stack import Stack, until

CONTRACT = {
    *("agent_telemetry_calls_captured_total", "agent_telemetry_calls_stored_total"),
    *("agent_telemetry_calls_waiting", "agent_telemetry_calls_quarantined"),
    "agent_telemetry_calls_lost_total",
}
# OpenTelemetry's names as the Prometheus exporter writes them: dots are underscores, the unit ends
# the name of what is measured in seconds.
GEN_AI = {
    "gen_ai_client_operation_duration_seconds": "chat",
    "gen_ai_client_token_usage": "chat",
    "gen_ai_server_time_to_first_token_seconds": "chat",
}


async def scrape(stack):
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{stack.admin_url}/metrics") as answer,
    ):
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return await answer.text()


@pytest.fixture
async def scraped(tmp_path, dsn):
    """A scrape after some calls, when their rows are stored and a turn was judged."""
    async with (
        Provider().serving() as upstream,
        Stack(tmp_path / "data", upstream, STORE__DSN=dsn) as stack,
    ):
        await stack.until_ready()
        async with Load(stack.url).running("call") as load:
            await load.until(6)

        async def stored():
            found = await scrape(stack)
            return "agent_telemetry_calls_waiting 0.0" in found and "input" in found

        await until(stored, "all rows are stored")
        yield await scrape(stack)


async def test_a_scrape_is_valid_documented_and_has_the_promised_names(scraped):
    families = {family.name: family for family in text_string_to_metric_families(scraped)}
    samples = {sample.name for family in families.values() for sample in family.samples}
    assert samples >= CONTRACT
    lost = families["agent_telemetry_calls_lost"].samples
    assert {tuple(sample.labels) for sample in lost} == {("reason",)}
    for name, operation in GEN_AI.items():
        labels = [sample.labels for sample in families[name].samples]
        assert {each["gen_ai_operation_name"] for each in labels} == {operation}
        assert {each["gen_ai_provider_name"] for each in labels} == {"openai"}
        assert {each["gen_ai_response_model"] for each in labels} == {"scripted-1"}
    types = {s.labels["gen_ai_token_type"] for s in families["gen_ai_client_token_usage"].samples}
    assert types == {"input", "output"}
    documented = set().union(*(each.series for each in declared()))
    assert samples <= documented


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
async def test_promtool_finds_no_fault(scraped):
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=scraped, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
