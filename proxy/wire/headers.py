"""Headers: which fields are forwarded, which the spool keeps, which make a request unacceptable.

Pure. Forwarded fields keep their bytes, order, case and repeats. What differs from a direct call:
hop-by-hop fields (RFC 9110 §7.6.1, those that `Connection` names included), `Host`, our own
`x-telemetry-*`, and the credential where the upstream's key is configured. The spool keeps the
allow-lists of `proxy.labels` and nothing else.
"""

from __future__ import annotations

from proxy.exchange import Headers, Labels
from proxy.labels import (
    CHAT_MODE,
    KEPT_REQUEST_HEADERS,
    KEPT_REQUEST_PREFIXES,
    KEPT_RESPONSE_HEADERS,
    LABEL_PREFIX,
    OMIT_CONTENT,
    OWN_PREFIX,
    PROJECT,
    RECORD,
    SESSION,
    TURN,
    TURN_INTENT,
)
from proxy.wire.credentials import (
    KEY_HEADERS,
    PROTOCOLS,
    masked,
    protocol_keys,
    without_protocol_keys,
)
from proxy.wire.fields import Fields, first, text

ID = b"x-agent-telemetry-id"

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Dropping one of these on the agent's word would change what the provider is asked.
_ESSENTIAL = KEY_HEADERS | {
    b"accept",
    b"anthropic-beta",
    b"anthropic-version",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"cookie",
    b"expect",
    b"host",
    b"openai-beta",
}
_OWN_PREFIX = OWN_PREFIX.encode()
_KEPT_REQUEST = frozenset(name.encode() for name in KEPT_REQUEST_HEADERS)
_KEPT_PREFIXES = tuple(prefix.encode() for prefix in KEPT_REQUEST_PREFIXES)
_NOTHING: frozenset[bytes] = frozenset()
_NO_NAMES = frozenset({b"close", b"keep-alive", b""})  # what Connection may say of itself
_KEPT_ANSWER = frozenset(name.encode() for name in KEPT_RESPONSE_HEADERS)
_OMIT_CONTENT = tuple(name.encode() for name in OMIT_CONTENT)


def problem_in_request(fields: Fields, is_http_1_0: bool) -> str | None:
    """Why a request's head cannot be forwarded safely, or None. Echoes nothing of it."""
    codings = [value for name, _, value in fields if name == b"transfer-encoding"]
    if codings and is_http_1_0:
        return "HTTP/1.0 has no Transfer-Encoding"
    if codings and (len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
        return "Transfer-Encoding must be exactly 'chunked'"
    lengths = [value for name, _, value in fields if name == b"content-length"]
    if lengths and (codings or len(lengths) > 1 or not lengths[0].isdigit()):
        return "the length of the body is ambiguous"
    if _named_by_connection(fields) & _ESSENTIAL:
        return "Connection names a header that belongs to the whole call"
    return None


def wanted_protocol(fields: Fields) -> bytes | None:
    """The protocol that the request asks to switch to, in lower case; None: it asks for none."""
    upgrade = first(fields, b"upgrade")
    if upgrade is None or b"upgrade" not in _named_by_connection(fields):
        return None
    return upgrade.strip().lower()


def is_websocket(fields: Fields) -> bool:
    """Whether the request asks for a WebSocket. Other upgrades (`h2c`) are not offered."""
    return wanted_protocol(fields) == b"websocket"


def to_upstream(
    fields: Fields, host: bytes, key: tuple[bytes, bytes] | None, *, keeps_upgrade: bool = False
) -> list[bytes]:
    """The header lines for the upstream, without the empty line.

    `key` is the name and value of the configured credential, which replaces the agent's own.
    """
    dropped = HOP_BY_HOP | _named_by_connection(fields)
    offered_keys = []
    if key is not None:
        dropped = dropped | KEY_HEADERS | {key[0]}
        offered_keys = protocol_keys(fields)
    lines = []
    is_chunked = False
    for name, raw_name, value in fields:
        if name == b"host":
            lines.append(b"%b: %b\r\n" % (raw_name, host))
        elif name == PROTOCOLS and offered_keys:
            if kept := without_protocol_keys(value, offered_keys):
                lines.append(b"%b: %b\r\n" % (raw_name, kept))
        elif name not in dropped and not name.startswith(_OWN_PREFIX):
            lines.append(b"%b: %b\r\n" % (raw_name, value))
        elif name == b"transfer-encoding":
            is_chunked = True
    if first(fields, b"host") is None:
        lines.insert(0, b"Host: %b\r\n" % host)
    if key is not None:
        lines.append(b"%b: %b\r\n" % key)
    if is_chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if keeps_upgrade:
        lines.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    return lines


def to_agent(fields: Fields, row_id: str | None) -> list[bytes]:
    """The end-to-end header lines of an answer, and the row's id where the answer has none."""
    named = _named_by_connection(fields)
    dropped = HOP_BY_HOP | named if named else HOP_BY_HOP
    lines = [b"%b: %b\r\n" % (raw, value) for name, raw, value in fields if name not in dropped]
    if row_id is not None and first(fields, ID) is None:
        lines.append(b"%b: %b\r\n" % (ID, row_id.encode()))
    return lines


def kept_of_request(fields: Fields, credentials: tuple[bytes, ...]) -> Headers:
    """What the spool keeps of a request's head."""
    return tuple(
        (name.decode("latin-1"), masked(value, credentials))
        for name, _, value in fields
        if name in _KEPT_REQUEST or name.startswith(_KEPT_PREFIXES)
    )


def kept_of_answer(fields: Fields, credentials: tuple[bytes, ...]) -> Headers:
    """What the spool keeps of an answer's head."""
    return tuple(
        (name.decode("latin-1"), masked(value, credentials))
        for name, _, value in fields
        if name in _KEPT_ANSWER
    )


def labels_of(
    fields: Fields, project: str | None, session: str | None, credentials: tuple[bytes, ...]
) -> Labels:
    """The labels of a call; `project` and `session` are those of the path, headers win."""
    own = {
        name.decode("latin-1"): text(masked(value, credentials).encode("latin-1"))
        for name, _, value in fields
        if name.startswith(_OWN_PREFIX)
    }
    label, path = own.get(SESSION), session
    return Labels(
        project=own.get(PROJECT) or project,
        session=label or path,
        session_source="label" if label else "path" if path else None,
        turn=own.get(TURN) or None,
        chat_mode=own.get(CHAT_MODE) or None,
        turn_intent=own.get(TURN_INTENT) or None,
        extra=tuple(
            (name.removeprefix(LABEL_PREFIX), value)
            for name, value in own.items()
            if name.startswith(LABEL_PREFIX) and len(name) > len(LABEL_PREFIX) and value
        ),
    )


def recording_wish(fields: Fields) -> str | None:
    """What the agent allows to be kept: "off", "metadata", or None for no restriction."""
    wish = first(fields, RECORD.encode())
    if wish is not None and wish.strip().lower() in (b"off", b"metadata"):
        return wish.strip().lower().decode()
    omits = (first(fields, name) for name in _OMIT_CONTENT)
    return "metadata" if any(v and v.strip().lower() in (b"true", b"1") for v in omits) else None


def _named_by_connection(fields: Fields) -> frozenset[bytes]:
    lists = [value for name, _, value in fields if name == b"connection"]
    if not lists:
        return _NOTHING
    return frozenset(part.strip().lower() for part in b",".join(lists).split(b",")) - _NO_NAMES
