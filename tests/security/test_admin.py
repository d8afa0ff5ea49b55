"""The admin listener, every route: nothing without the token, nothing under a foreign name."""

import re
import socket
from contextlib import asynccontextmanager

import pytest

from proxy.admin.server import AdminServer
from proxy.environment import load
from proxy.live import Live
from proxy.pages import Pages
from proxy.spool.totals import Totals
from proxy.store.viewer import Viewer
from tests.fakes import connect
from tests.security.test_browser import FOREIGN

TOKEN = "admin-token-0123456789"
OPEN = ("/healthz", "/readyz")
AWAY = "postgresql://nobody@127.0.0.1:1/none"  # pages answer without a database too
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
PROBES = (
    *("/", "/metrics", "/metrics/", "//metrics", "/./metrics", "/healthz/../metrics", "/%6detrics"),
    *(
        "/metrics?token=x",
        "/healthz/metrics",
        "/healthz%2f..%2fmetrics",
        "/readyz;/metrics",
        "/api",
    ),
    *(
        "/admin",
        "/config",
        "/config/update",
        "/static/../../etc/passwd",
        "/debug/pprof",
        "/x" * 500,
    ),
)


async def yes() -> bool:
    return True


@asynccontextmanager
async def admin(tmp_path, spool_sums=Totals, **settings):
    environ = {"AGENT_TELEMETRY__DATA_DIR": str(tmp_path)}
    environ |= {f"AGENT_TELEMETRY__ADMIN__{name}": value for name, value in settings.items()}
    config = load(None, environ)
    config.metrics_dir.mkdir(parents=True, exist_ok=True)
    sock = socket.create_server(("127.0.0.1", 0))
    server = AdminServer(
        config,
        spool_sums=spool_sums,
        store_answers=yes,
        gateway_answers=yes,
        pages=Pages(Viewer(AWAY), Live(Viewer(AWAY)), {}, spool_sums, yes),
    )
    await server.start(sock)
    try:
        yield server, sock.getsockname()
    finally:
        await server.close()


def routes_of(server):
    """Every path the listener knows, with something in place of each variable."""
    paths = {route.resource.canonical for route in server._runner.app.router.routes()}
    return sorted(re.sub(r"\{[^}]*\}", "x", path) for path in paths)


async def ask(address, method, path, *lines):
    """The answer; of a stream that does not end by itself, its head."""
    raw = "\r\n".join((f"{method} {path} HTTP/1.1", *lines, "Connection: close", "", ""))
    async with connect(address) as agent:
        await agent.send(raw.encode("latin-1"))
        is_stream = path == "/live/events"
        return await (agent.reader.readuntil(b"\r\n\r\n") if is_stream else agent.rest())


def status_of(answer):
    return int(answer.split(b" ", 2)[1])


async def test_without_the_token_only_the_probes_answer(tmp_path):
    async with admin(tmp_path, TOKEN=TOKEN) as (server, address):
        routes = routes_of(server)
        assert {"/healthz", "/readyz", "/metrics"} <= set(routes)
        for path in (*routes, *PROBES):
            for method in METHODS:
                answer = await ask(address, method, path, "Host: localhost")
                is_open = path in OPEN
                expected = (200, 405) if is_open else (401,)
                if path.startswith("/static/"):  # own files, the same for everybody
                    expected = (404, 405)
                assert status_of(answer) in expected, (method, path)
                assert b"agent_telemetry_" not in answer


@pytest.mark.parametrize(
    "given",
    [
        *("", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x"),
        *(
            f"bearer{TOKEN}",
            f"Bearer {TOKEN.upper()}",
            "Bearer \xff\xfe",
            "Bearer \xc3\xa9",
            TOKEN[:3],
        ),
    ],
)
async def test_a_wrong_token_is_refused(tmp_path, given):
    async with admin(tmp_path, TOKEN=TOKEN) as (_, address):
        lines = ("Host: localhost", f"Authorization: {given}")
        assert status_of(await ask(address, "GET", "/metrics", *lines)) == 401


async def test_the_right_token_opens(tmp_path):
    async with admin(tmp_path, TOKEN=TOKEN) as (_, address):
        lines = ("Host: localhost", f"Authorization: Bearer {TOKEN}")
        assert status_of(await ask(address, "GET", "/metrics", *lines)) == 200


@pytest.mark.parametrize("host", FOREIGN)
async def test_a_foreign_name_is_misdirected(tmp_path, host):
    """DNS rebinding: the page's own name resolves to loopback, also with the token in hand."""
    async with admin(tmp_path, TOKEN=TOKEN) as (server, address):
        for path in set(routes_of(server)) - set(OPEN):
            lines = (f"Host: {host.decode()}", f"Authorization: Bearer {TOKEN}")
            assert status_of(await ask(address, "GET", path, *lines)) == 421
            absolute = f"http://localhost{path}"
            assert status_of(await ask(address, "GET", absolute, *lines)) in (400, 421)


async def test_every_answer_forbids_what_a_page_could_do_with_it(tmp_path):
    async with admin(tmp_path) as (server, address):
        for path in (*routes_of(server), "/nothing-here"):
            for method in ("GET", "POST"):
                answer = (await ask(address, method, path, "Host: localhost")).lower()
                assert b"content-security-policy: default-src 'none'" in answer
                assert b"x-frame-options: deny" in answer
                assert b"x-content-type-options: nosniff" in answer
                assert b"access-control" not in answer


async def test_a_fault_shows_no_detail(tmp_path, caplog, monkeypatch):
    def broken():
        raise ValueError("canary-0123456789")

    async with admin(tmp_path, spool_sums=broken) as (_, address):
        answer = await ask(address, "GET", "/metrics", "Host: localhost")
    assert status_of(answer) == 500
    assert b"canary" not in answer
    assert "canary" not in caplog.text
    assert "admin listener failed" in caplog.text
