"""Admin listener: health, readiness, metrics and the web page, on a socket of its own. Read-only.

`/healthz` and `/readyz` need neither token nor Host check and tell nothing but their state. All
else checks that `Host` names this listener (a web page must not reach it by DNS rebinding) and,
where `admin.token` is set, a bearer token, or the cookie of a person who has signed in with it.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import http_parser, web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from proxy.admin.conservation import ConservationCollector
from proxy.admin.fleet import FleetCollector
from proxy.admin.token import is_token
from proxy.admin.web import STATIC, Pages, WebPage, wants_html
from proxy.config import Config, is_loopback, split_listen
from proxy.errors import ProxyError
from proxy.log import describe, event
from proxy.sums import Fleet, Sums

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Probe = Callable[[], Awaitable[bool]]

_OPEN_PATHS = frozenset({"/healthz", "/readyz"})
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class AdminServer:
    """The admin listener of one machine."""

    def __init__(
        self,
        config: Config,
        *,
        spool_sums: Callable[[], Sums],
        store_answers: Probe,
        gateway_answers: Probe,
        pages: Pages,
        fleet: Callable[[], Awaitable[Fleet | None]] | None = None,
    ) -> None:
        """Raises ProxyError without aiohttp's C parser."""
        _require_c_parser()
        self._config = config
        self._spool_sums = spool_sums
        self._store_answers = store_answers
        self._gateway_answers = gateway_answers
        token = config.admin.token
        self._token = token.get_secret_value() if token is not None else None
        self._page = WebPage(pages, self._token)
        self._fleet = fleet
        self._fleet_stored = 0
        self._runner: web.AppRunner | None = None

    async def start(self, sock: socket.socket) -> None:
        """Serve on a listening socket."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._page.add_routes(app.router)
        app.on_response_prepare.append(_seal)
        app.on_shutdown.append(self._page.close)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = None if request.path in _OPEN_PATHS else self._refusal(request)
        try:
            response = refusal or await handler(request)
        except web.HTTPException as error:  # an unknown path or method
            is_lost = error.status == 404 and wants_html(request)
            response = (
                self._page.missing(request) if is_lost else _error(error.status, error.reason)
            )
        except Exception as error:  # noqa: BLE001  the top of a request; aiohttp may show a traceback
            event("the admin listener failed", logging.ERROR, error=describe(error))
            response = _error(500, "an error inside agent-telemetry; its log names it")
        return response

    def _refusal(self, request: web.Request) -> web.Response | None:
        # Not `request.host`, which an absolute request target overrides.
        if _host_name(request.headers.get("Host", "")) not in self._hosts():
            return _error(421, "this Host is not served here; add it to admin.hosts if it is yours")
        is_open = request.path == "/metrics" and self._config.admin.metrics_open
        is_open = is_open or request.path.startswith(STATIC) or _is_signing_in(request)
        if self._token is None or is_open or self._page.has_ticket(request):
            return None
        given = request.headers.get("Authorization", "")
        if is_token(given[7:] if given[:7].lower() == "bearer " else given, self._token):
            return None
        if wants_html(request):
            return self._page.sign_in(request)
        return _error(401, "send the header Authorization: Bearer ADMIN_TOKEN")

    def _hosts(self) -> frozenset[str]:
        where = split_listen(self._config.admin.listen)
        own = {where[0].lower()} if isinstance(where, tuple) else set()
        local = {"localhost", "127.0.0.1", "::1"} if is_loopback(self._config.admin.listen) else own
        return frozenset(local | own | set(self._config.admin.hosts))

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        """Red only where agents are not served; a database that is away is `degraded`."""
        if not await self._gateway_answers():
            return web.json_response({"status": "unavailable"}, status=503)
        is_whole = await self._store_answers()
        return web.json_response({"status": "ok" if is_whole else "degraded"})

    async def _metrics(self, request: web.Request) -> web.Response:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._config.metrics_dir))  # type: ignore[no-untyped-call] # untyped in prometheus-client
        registry.register(ConservationCollector(self._spool_sums()))
        if self._fleet is not None:
            fleet = await self._fleet()
            registry.register(FleetCollector(fleet, self._fleet_stored))
            self._fleet_stored = max(self._fleet_stored, fleet.stored if fleet else 0)
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


async def _seal(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Forbid whatever a browser could do with an answer, but for what it says itself."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def _is_signing_in(request: web.Request) -> bool:
    return request.method == "POST" and request.path == "/login"


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1 : host.find("]")]
    return host.partition(":")[0].lower()


def _error(status: int, text: str) -> web.Response:
    body: Mapping[str, Mapping[str, str]] = {"error": {"message": text}}
    return web.json_response(body, status=status)


def _require_c_parser() -> None:
    """The other one, in Python, accepts requests that could be framed in two ways."""
    if http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise ProxyError(
            "aiohttp runs without its C parser, which is not safe for a listener; unset "
            "AIOHTTP_NO_EXTENSIONS and install a wheel of aiohttp for this platform"
        )
