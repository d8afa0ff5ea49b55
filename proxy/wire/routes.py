"""Routes: where a request goes, told from its raw target alone.

    /p/PROJECT/s/SESSION/t/TOKEN/UPSTREAM/REST?QUERY      labels in any order, each optional
    /v1/REST, /v1beta/REST                                without an upstream's name
    /telemetry/REST                                       the gateway's own

The raw bytes are the only source. They are never normalised, joined or parsed as a URL: a target
such as `//host/x` or `http://host/x` would move the call to another host. What follows the
upstream's name is forwarded byte for byte, `//`, `..` and `%3A` included; scheme, host and port
come from the configuration and from nowhere else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

TELEMETRY = "telemetry"

# RFC 9112 §3.2.1 origin-form is visible ASCII; bytes above it pass, since agents send them.
_FORBIDDEN = re.compile(rb"[\x00-\x20\x7f\\#]")
_UNNAMED = (b"v1", b"v1beta")


@dataclass(frozen=True, slots=True)
class Route:
    """A request's labels, its upstream's name and what is left of the target.

    `upstream` is None for `/v1` and `/v1beta`, where the headers decide.
    """

    upstream: str | None
    path: bytes  # what follows the upstream's name: empty or beginning with "/"
    query: bytes | None  # without "?"; None where there is none
    project: str | None = None
    session: str | None = None
    token: bytes | None = None


def parse(target: bytes) -> Route | str:
    """The route of a raw request target, or what is wrong with it (which echoes nothing of it)."""
    if not target.startswith(b"/"):
        return "the request target must be a path; this gateway is not a forward proxy"
    if target.startswith(b"//") or _FORBIDDEN.search(target):
        return "the request target holds what no path may hold (//, \\, # or a control byte)"
    path, mark, query = target.partition(b"?")
    labels: dict[bytes, bytes] = {}
    while True:
        name, slash, rest = path[1:].partition(b"/")
        if name not in (b"p", b"s", b"t"):
            break
        value, slash, rest = rest.partition(b"/")
        if not value:
            return f"the path label /{name.decode()}/ lacks its value"
        labels[name] = unquote_to_bytes(value)
        path = slash + rest
    route_path = path if name in _UNNAMED else slash + rest
    return Route(
        None if name in _UNNAMED else name.decode("ascii", "replace"),
        route_path,
        query if mark else None,
        _text(labels.get(b"p")),
        _text(labels.get(b"s")),
        labels.get(b"t"),
    )


def unnamed_upstream(path: bytes, has_anthropic_version: bool) -> str:
    """The upstream of a path without an upstream's name."""
    if has_anthropic_version:
        return "anthropic"
    return "gemini" if path.startswith(b"/v1beta") else "openai"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")
