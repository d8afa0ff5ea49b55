"""Admission: what is to be done with a request, decided from its head alone. Pure.

The order of the checks is the order of trust: the target, the framing, the upstream, the agent's
token, the browser's marks. A request is either refused, before any upstream is called, or admitted
with everything the relay needs. Nothing in a request can name a host: it picks one of the
configured upstreams by name.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

from proxy.config import Config, Upstream, split_listen
from proxy.endpoints import FEEDBACK_REPORT, TURN_REPORT, Endpoint, classify
from proxy.exchange import Labels
from proxy.labels import TOKEN
from proxy.wire import credentials, headers, routes
from proxy.wire.fields import Fields, first
from proxy.wire.refusals import Refusal

_CLIENT_TOKEN = TOKEN.encode()
_REPORTS = {b"/v1/turns": TURN_REPORT, b"/v1/feedback": FEEDBACK_REPORT}
_SITES = (b"same-origin", b"none")


@dataclass(frozen=True, slots=True)
class Origin:
    """An upstream as configured, in the bytes that a request to it needs."""

    name: str
    dialect: str
    host: bytes  # value of the Host header
    base: bytes  # path in front of the request's
    key: tuple[bytes, bytes] | None  # header and value of the configured credential
    is_signed: bool = False  # by the gateway, with its own credentials

    @property
    def has_key(self) -> bool:
        """Whether the gateway adds a credential of its own."""
        return self.key is not None or self.is_signed

    @classmethod
    def from_config(cls, name: str, upstream: Upstream, *, is_signed: bool = False) -> Origin:
        parts = urlsplit(upstream.url)
        key = None
        if upstream.api_key is not None:
            secret = upstream.api_key.get_secret_value()
            value = f"Bearer {secret}" if upstream.key_header == "authorization" else secret
            key = (upstream.key_header.encode(), value.encode())
        host, base = parts.netloc.encode(), parts.path.encode()
        return cls(name, upstream.dialect, host, base, key, is_signed)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that is forwarded: where to, as what, and what may be kept of it."""

    origin: Origin
    target: bytes  # path and query for the upstream
    recorded_target: str
    endpoint: Endpoint | None  # None: no model call, forwarded without a row
    labels: Labels
    content: str
    credentials: tuple[bytes, ...]
    is_websocket: bool

    @property
    def dialect(self) -> str:
        return self.endpoint.dialect if self.endpoint else self.origin.dialect


@dataclass(frozen=True, slots=True)
class Healthy:
    """The request asks whether the gateway answers. It does, whoever asks."""


@dataclass(frozen=True, slots=True)
class Reporting:
    """The request brings a report for the gateway itself."""

    endpoint: Endpoint
    labels: Labels
    wish: str | None  # the sender's own restriction of what may be kept
    credentials: tuple[bytes, ...]


class Admission:
    """The rules of one configuration."""

    def __init__(self, config: Config, signs: frozenset[str] = frozenset()) -> None:
        """`signs` names the upstreams whose requests the gateway signs anew."""
        self._origins: Mapping[str, Origin] = {
            name: Origin.from_config(name, upstream, is_signed=name in signs)
            for name, upstream in config.upstreams.items()
        }
        self._tokens = tuple(t.get_secret_value().encode() for t in config.gateway.client_tokens)
        self._listen = split_listen(config.gateway.listen)
        self._is_capturing = config.capture.enabled
        self._content = config.capture.content
        self._contents = {name: p.content for name, p in config.projects.items() if p.content}

    def decide(
        self, method: str, target: bytes, fields: Fields, *, is_http_1_0: bool = False
    ) -> Admitted | Refusal | Healthy | Reporting:
        route = routes.parse(target)
        if isinstance(route, str):
            return Refusal(400, route)
        if method == "CONNECT":
            return Refusal(400, "CONNECT is not offered; this gateway is not a forward proxy")
        name = route.upstream
        if name == routes.TELEMETRY and (method, route.path) == ("GET", b"/v1/health"):
            return Healthy()
        if name is None:
            version = first(fields, b"anthropic-version")
            name = routes.unnamed_upstream(route.path, version is not None)
        origin = self._origins.get(name)
        dialect = origin.dialect if origin else "openai"
        problem = headers.problem_in_request(fields, is_http_1_0)
        if problem is not None:
            return Refusal(400, problem, dialect)
        if origin is None:
            return self._without_upstream(method, name, route, fields)
        refusal = (
            self._unsigned(origin, route, fields)
            or self._token_missing(origin, route, fields)
            or self._browser(origin, fields)
        )
        return refusal or self._admit(method, origin, route, fields)

    def content_of(self, project: str | None, wish: str | None) -> str:
        """What may be kept of a project's calls: "full" or "metadata"."""
        return wish or self._contents.get(project or "", self._content)

    def _without_upstream(
        self, method: str, name: str, route: routes.Route, fields: Fields
    ) -> Refusal | Reporting:
        if name == routes.TELEMETRY:
            return (
                self._token_missing(None, route, fields)
                or self._browser(None, fields)
                or self._reporting(method, route, fields)
            )
        known = ", ".join(sorted(self._origins))
        return Refusal(
            404,
            f"no upstream of this name; known: {known}. Set the agent's base URL to "
            "http://GATEWAY/UPSTREAM/..., or add [upstreams.NAME] to the configuration",
        )

    def _reporting(self, method: str, route: routes.Route, fields: Fields) -> Refusal | Reporting:
        endpoint = _REPORTS.get(route.path.rstrip(b"/"))
        if endpoint is None:
            return Refusal(404, "the gateway's own paths are /telemetry/v1/turns and /feedback")
        if method != "POST":
            return Refusal(405, "reports are sent with POST")
        if not self._is_capturing:
            return Refusal(503, "nothing is recorded (capture.enabled is false)")
        wish = headers.recording_wish(fields)
        if wish == "off":
            return Refusal(400, "x-telemetry-record: off would keep nothing of this report")
        found = self._credentials(route, fields)
        labels = headers.labels_of(fields, route.project, route.session, found)
        return Reporting(endpoint, labels, wish, _secrets(found))

    @staticmethod
    def _credentials(route: routes.Route, fields: Fields) -> tuple[bytes, ...]:
        """Every credential that came with the request's head or path."""
        found = credentials.in_head(fields, route.query)
        return found if route.token is None else (route.token, *found)

    def _unsigned(self, origin: Origin, route: routes.Route, fields: Fields) -> Refusal | None:
        """A SigV4 signature covers the host, so it cannot hold through another host."""
        signed = (first(fields, b"authorization") or b"").startswith(b"AWS4-HMAC-SHA256")
        is_presigned = b"X-Amz-Signature=" in (route.query or b"")
        if not is_presigned and (origin.is_signed or not signed):
            return None
        return Refusal(
            400,
            "the request is signed (SigV4) for another host than the gateway's; use a Bedrock API "
            "key (bearer token) in the agent, or let the gateway sign: install "
            f"agent-telemetry[bedrock] and set upstreams.{origin.name}.aws_region",
            origin.dialect,
        )

    def _token_missing(
        self, origin: Origin | None, route: routes.Route, fields: Fields
    ) -> Refusal | None:
        if not self._tokens:
            return None
        presented = [first(fields, _CLIENT_TOKEN), route.token]
        if origin is not None and origin.has_key:
            own = credentials.KEY_HEADERS | ({origin.key[0]} if origin.key else set())
            presented += [
                credentials.without_scheme(value) for name, _, value in fields if name in own
            ]
            presented += credentials.protocol_keys(fields)
            presented += [
                unquote_to_bytes(value)
                for name, value in credentials.parameters(route.query)
                if name in credentials.KEY_PARAMETERS
            ]
        if self._is_known_token([value for value in presented if value]):
            return None
        return Refusal(
            401,
            "a client token is required: send it as header x-telemetry-token or in the base URL "
            "as /t/TOKEN/UPSTREAM",
            origin.dialect if origin else "openai",
        )

    def _is_known_token(self, presented: list[bytes]) -> bool:
        # Every pair is compared, so that the time tells nothing of which one nearly matched.
        matches = [hmac.compare_digest(p, token) for p in presented for token in self._tokens]
        return any(matches)

    def _browser(self, origin: Origin | None, fields: Fields) -> Refusal | None:
        """A web page must not spend a key, or report turns, through a gateway without tokens."""
        if self._tokens or (origin is not None and not origin.has_key):
            return None
        site = first(fields, b"sec-fetch-site")
        if (
            first(fields, b"origin") is None
            and (site is None or site.strip().lower() in _SITES)
            and _is_listeners_host(first(fields, b"host") or b"", self._listen)
        ):
            return None
        return Refusal(
            403,
            "refused because a browser's page may have sent it (Origin, Sec-Fetch-Site or Host); "
            "set gateway.client_tokens and send one of them",
            origin.dialect if origin else "openai",
        )

    def _admit(self, method: str, origin: Origin, route: routes.Route, fields: Fields) -> Admitted:
        query = route.query
        path = (origin.base + route.path) or b"/"
        found = self._credentials(route, fields)
        if origin.has_key:
            query = credentials.without_key_parameter(query)
        if origin.key is not None:
            found = (*found, credentials.without_scheme(origin.key[1]))
        labels = headers.labels_of(fields, route.project, route.session, found)
        is_websocket = method == "GET" and headers.is_websocket(fields)
        wish = headers.recording_wish(fields)
        endpoint = None
        if self._is_capturing and wish != "off":
            # Agents may percent-encode the colon of `models/NAME:generateContent`.
            text = path.decode("latin-1").replace("%3A", ":").replace("%3a", ":")
            endpoint = classify(method, text, is_websocket=is_websocket)
        return Admitted(
            origin,
            path if query is None else path + b"?" + query,
            credentials.masked_target(path, query, found),
            endpoint,
            labels,
            self.content_of(labels.project, wish),
            _secrets(found),
            is_websocket,
        )


def _secrets(found: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(each for each in found if len(each) >= credentials.SECRET_BYTES_MIN)


def _is_listeners_host(host: bytes, listen: object) -> bool:
    """Whether a Host header may name this listener.

    A page reaches a local listener under a foreign name by DNS rebinding, so only names count that
    no stranger can own: the configured host, loopback, and on an open listener addresses and names
    without a dot. The port may differ (port mappings).
    """
    name = host.decode("latin-1").lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    own = listen[0].lower() if isinstance(listen, tuple) else "0.0.0.0"
    if name == own:
        return True
    is_open = own in ("0.0.0.0", "::", "")
    address = _address(name)
    if address is None:
        is_local = name == "localhost"
        return (is_open and bool(name) and "." not in name) or (is_local and _is_local(own))
    return is_open or (address.is_loopback and _is_local(own))


def _is_local(own: str) -> bool:
    address = _address(own)
    return own == "localhost" or (address is not None and address.is_loopback)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
