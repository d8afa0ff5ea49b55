"""The admin listener: who may see what, and that the identity holds in every scrape."""

import socket
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import http_parser
from prometheus_client.parser import text_string_to_metric_families

from proxy.admin.server import AdminServer
from proxy.environment import load
from proxy.errors import ProxyError
from proxy.live import Live
from proxy.pages import Pages
from proxy.spool.totals import Totals
from proxy.store.viewer import Viewer

AWAY = "postgresql://nobody@127.0.0.1:1/none"
URLS = {"anthropic": "http://127.0.0.1:8080/anthropic"}
SUMS = Totals(captured=10, stored=6, quarantined=1, lost={"disk_full": 2})
TOKEN = {"AGENT_TELEMETRY__ADMIN__TOKEN": "open-sesame-0123"}


@asynccontextmanager
async def admin(tmp_path: Path, *, gateway=True, store=True, **environ: str):
    config = load(None, {"AGENT_TELEMETRY__DATA_DIR": str(tmp_path)} | environ)
    config.metrics_dir.mkdir(parents=True, exist_ok=True)

    async def gateway_answers() -> bool:
        return gateway

    async def store_answers() -> bool:
        return store

    server = AdminServer(
        config,
        spool_sums=lambda: SUMS,
        gateway_answers=gateway_answers,
        store_answers=store_answers,
        pages=Pages(Viewer(AWAY), Live(Viewer(AWAY)), URLS, lambda: SUMS, gateway_answers),
    )
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    await server.start(sock)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{sock.getsockname()[1]}") as session:
        try:
            yield session
        finally:
            await server.close()


@pytest.mark.parametrize(
    ("gateway", "store", "status", "word"),
    [
        (True, True, 200, "ok"),
        (True, False, 200, "degraded"),  # never red because the database is away
        (False, True, 503, "unavailable"),
    ],
)
async def test_readiness(tmp_path, gateway, store, status, word):
    async with admin(tmp_path, gateway=gateway, store=store) as session:
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (status, {"status": word})
        async with session.get("/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("environ", "headers", "status"),
    [
        ({}, {}, 200),
        ({}, {"Host": "localhost:8081"}, 200),
        ({}, {"Host": "[::1]:8081"}, 200),
        ({}, {"Host": "evil.test"}, 421),
        ({"AGENT_TELEMETRY__ADMIN__HOSTS": "good.test"}, {"Host": "good.test:80"}, 200),
        ({"AGENT_TELEMETRY__ADMIN__LISTEN": "LOCALHOST:0"}, {"Host": "localhost:80"}, 200),
        (TOKEN, {}, 401),
        (TOKEN, {"Authorization": "Bearer wrong"}, 401),
        (TOKEN, {"Authorization": "Bearer open-sesame-0123"}, 200),
        (TOKEN, {"Authorization": "bearer open-sesame-0123"}, 200),  # RFC 9110, section 11.1
        (TOKEN | {"AGENT_TELEMETRY__ADMIN__METRICS_OPEN": "true"}, {}, 200),
    ],
)
async def test_who_may_read_the_metrics(tmp_path, environ, headers, status):
    async with (
        admin(tmp_path, **environ) as session,
        session.get("/metrics", headers=headers) as answer,
    ):
        assert answer.status == status
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_need_neither_token_nor_host(tmp_path, path):
    async with (
        admin(tmp_path, **TOKEN) as session,
        session.get(path, headers={"Host": "evil.test"}) as answer,
    ):
        assert answer.status == 200


async def test_the_identity_holds_in_a_scrape(tmp_path):
    async with admin(tmp_path) as session, session.get("/metrics") as answer:
        text = await answer.text()
    families = text_string_to_metric_families(text)
    found = {sample.name: sample.value for family in families for sample in family.samples}
    name = "agent_telemetry_calls_{}".format
    assert found[name("captured_total")] == (
        found[name("stored_total")]
        + found[name("waiting")]
        + found[name("quarantined")]
        + found[name("lost_total")]
    )
    assert found[name("waiting")] == 1


async def test_the_parser_in_python_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
    with pytest.raises(ProxyError, match="C parser"):
        async with admin(tmp_path):
            pass
