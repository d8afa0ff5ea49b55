"""Web: the routes of the web page, its own files, and signing in. Read-only but for the cookie.

/                     live calls and turns; /live/events sends them
/conversations        /conversation?session=…&project=…        /call/ID
/overview             /health
/static/NAME          own files; open to everybody who names this host, since they tell nothing
POST /login /logout   the cookie; a page of another origin cannot ask for either
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Protocol
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp_sse import sse_response

from proxy.admin.token import COOKIE, GOOD_FOR_S, is_ticket, is_token, ticket

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STATIC = "/static/"
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FOREIGN = ("cross-site", "same-site")
_TOKEN_BYTES_MAX = 8192
STREAMS_MAX = 100  # live pages that are open at a time


class Page(Protocol):
    """What a browser is shown."""

    @property
    def html(self) -> str: ...
    @property
    def status(self) -> int: ...


class Pages(Protocol):
    """What makes the pages (`pages.Pages`)."""

    async def page(
        self, view: str, query: Mapping[str, str], common: Mapping[str, Any]
    ) -> Page: ...
    def events(self, query: Mapping[str, str]) -> AsyncIterator[tuple[str, str]]: ...
    def missing(self, common: Mapping[str, Any]) -> Page: ...
    def login(self, common: Mapping[str, Any], **context: Any) -> str: ...


class WebPage:
    """The handlers. `token` is the admin token, where one is set."""

    def __init__(self, pages: Pages, token: str | None) -> None:
        self._pages = pages
        self._token = token
        self._streams: set[asyncio.Task[Any]] = set()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        for path, view in (
            ("/", "live"),
            ("/conversations", "conversations"),
            ("/conversation", "conversation"),
            ("/call/{id}", "call"),
            ("/overview", "overview"),
            ("/health", "health"),
        ):
            router.add_get(path, self._view(view))
        router.add_get("/live/events", self._events)
        router.add_get(STATIC + "{name}", self._static)
        router.add_post("/login", self._login)
        router.add_post("/logout", self._logout)

    def has_ticket(self, request: web.Request) -> bool:
        """Whether the browser has signed in."""
        given = request.cookies.get(COOKIE, "")
        return self._token is not None and is_ticket(given, self._token)

    def sign_in(self, request: web.Request) -> web.Response:
        """The form, in place of a page that needs it; afterwards that page is shown."""
        # A cookie that is SameSite=Strict does not come with a link from elsewhere. The form's
        # page asks once more by itself, and then it does.
        site = request.headers.get("Sec-Fetch-Site", "")
        body = self._pages.login(
            self._common(request),
            next=request.path_qs,
            is_wrong=False,
            comes_from_elsewhere=site in _FOREIGN,
        )
        return _html(body, 401)

    def missing(self, request: web.Request) -> web.Response:
        """The answer to a path that is none of ours."""
        page = self._pages.missing(self._common(request))
        return _html(page.html, page.status)

    def _view(self, view: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            query = {**request.query, **request.match_info}
            page = await self._pages.page(view, query, self._common(request))
            return _html(page.html, page.status)

        return handle

    def _common(self, request: web.Request) -> dict[str, Any]:
        return {"assets": _addresses(), "can_leave": self.has_ticket(request)}

    async def _events(self, request: web.Request) -> web.StreamResponse:
        try:
            events = self._pages.events(request.query)
        except ValueError as error:
            raise web.HTTPBadRequest(reason=str(error)) from None
        if len(self._streams) >= STREAMS_MAX:
            raise web.HTTPServiceUnavailable(reason="too many live pages are open; close some")
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            async with sse_response(request) as response:
                async for name, data in events:
                    await response.send(data, event=name)
        except (ConnectionResetError, TimeoutError):  # the page was closed, or stands still
            pass
        finally:
            self._streams.discard(task)
        return response

    async def close(self, app: web.Application) -> None:
        """End the live pages' streams, which would go on for ever."""
        for task in self._streams:
            task.cancel()

    async def _static(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        body = _files().get(name)
        if body is None:
            raise web.HTTPNotFound
        kind = _TYPES[name.rpartition(".")[2]]
        response = web.Response(body=body, content_type=kind, charset="utf-8")
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response

    async def _login(self, request: web.Request) -> web.Response:
        if is_from_elsewhere(request):
            raise web.HTTPForbidden(reason="sign in on the page of this listener")
        form = await request.post()
        given, following = str(form.get("token", "")), _own(str(form.get("next", "/")))
        if self._token is None:
            return _redirect(following)
        if len(given) > _TOKEN_BYTES_MAX or not is_token(given, self._token):
            body = self._pages.login(
                self._common(request), next=following, is_wrong=True, comes_from_elsewhere=False
            )
            return _html(body, 401)
        response = _redirect(following)
        response.set_cookie(
            COOKIE,
            ticket(self._token),
            max_age=GOOD_FOR_S,
            httponly=True,
            samesite="Strict",
            secure=request.headers.get("X-Forwarded-Proto") == "https",
        )
        return response

    async def _logout(self, request: web.Request) -> web.Response:
        if is_from_elsewhere(request):
            raise web.HTTPForbidden(reason="sign out on the page of this listener")
        response = _redirect("/")
        response.del_cookie(COOKIE)
        return response


def wants_html(request: web.Request) -> bool:
    """Whether a person's browser asks for a page."""
    return request.method == "GET" and "text/html" in request.headers.get("Accept", "")


def is_from_elsewhere(request: web.Request) -> bool:
    """Whether a page of another origin sent this; such a page cannot choose these headers.

    Without Sec-Fetch-Site (old browsers, plain HTTP to another machine) an Origin that is hidden
    passes: our own forms send `null`, since they give no referrer.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("Origin", "null")
    return origin != "null" and urlsplit(origin).netloc != request.headers.get("Host", "")


def _own(address: str) -> str:
    """A path of this listener, whatever a form says."""
    parts = urlsplit(address)
    is_own = address.startswith("/") and not address.startswith(("//", "/\\"))
    is_own = is_own and not parts.scheme and not parts.netloc and address.isprintable()
    return address if is_own else "/"


def _redirect(address: str) -> web.Response:
    return web.Response(status=303, headers={"Location": address})


def _html(body: str, status: int = 200) -> web.Response:
    response = web.Response(text=body, status=status, content_type="text/html")
    response.headers["Content-Security-Policy"] = POLICY
    return response


@cache
def _files() -> dict[str, bytes]:
    folder = resources.files("proxy.admin") / "static"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


@cache
def _addresses() -> dict[str, str]:
    """Name → address that changes with the content, so that it may be kept for ever."""
    return {
        name: f"{STATIC}{name}?v={hashlib.sha256(body).hexdigest()[:12]}"
        for name, body in _files().items()
    }
