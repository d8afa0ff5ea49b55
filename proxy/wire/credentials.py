"""Credentials: which parts of a request's head are secret, and what may be told of them.

Pure. Nothing here forwards or stores a credential: it names them, masks them out of what the spool
keeps, and turns each into a `Secret` (length and keyed hash), by which the recorder finds copies of
it in bodies. Values under 16 characters are placeholders such as `test` and are no secrets.
"""

from __future__ import annotations

import contextlib
import re
from base64 import b64decode
from collections.abc import Collection, Iterable
from hashlib import blake2b
from urllib.parse import unquote_to_bytes

from proxy.exchange import Secret
from proxy.wire.fields import Fields

MASK = "[REDACTED]"
SECRET_BYTES_MIN = 16

# Where agents put a provider's key. The configured key of an upstream replaces all of them.
KEY_HEADERS = frozenset({b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"})
KEY_PARAMETERS = frozenset({b"key"})
PROTOCOLS = b"sec-websocket-protocol"  # may hold one, see `protocol_keys`

_SECRET_NAME = re.compile(
    rb"auth|api-?key|token|secret|passw|credential|cookie|signature|(?:^|-)key(?:$|-)"
)
# Named like a secret, and none.
_OPEN_NAMES = frozenset({b"idempotency-key", b"x-idempotency-key", b"sec-websocket-key"})
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.$-]{1,40}")
# A subprotocol that says of the next one that it is a key, as `bearer` and `access_token` do.
_ANNOUNCING = re.compile(
    rb"(?:^|[-_])(?:auth|authorization|basic|bearer|credentials?|jwt|password|secret"
    rb"|[a-z]*key|[a-z]*token)$"
)
_SCHEME = re.compile(rb"(?i)(?:bearer|basic|token)\s+")

# Query parameters of model calls that carry no secret; every other value is masked in the record.
KEPT_PARAMETERS = frozenset(
    {b"alt", b"api-version", b"beta", b"model", b"stream", b"$alt", b"prettyprint"}
)


def in_head(fields: Fields, query: bytes | None) -> tuple[bytes, ...]:
    """Every credential of a request's head, without its scheme, in order, once each."""
    found: dict[bytes, None] = {}
    for name, _, value in fields:
        if name not in _OPEN_NAMES and _SECRET_NAME.search(name):
            parts = _cookie_values(value) if b"cookie" in name else (without_scheme(value),)
            found.update(dict.fromkeys((*parts, *_of_basic(value))))
    found.update(dict.fromkeys(protocol_keys(fields)))
    for name, value in parameters(query):
        if name.lower() not in KEPT_PARAMETERS:
            found[unquote_to_bytes(value)] = None
            found[value] = None
    return tuple(value for value in found if len(value) >= SECRET_BYTES_MIN)


def without_scheme(value: bytes) -> bytes:
    """The credential of an Authorization header: `Bearer X` and `Basic X` give X."""
    scheme = _SCHEME.match(value)
    return value[scheme.end() :] if scheme else value


def _of_basic(value: bytes) -> tuple[bytes, ...]:
    """User and password of RFC 7617, either of which may be a key."""
    scheme, _, coded = value.partition(b" ")
    if scheme.lower() != b"basic":
        return ()
    with contextlib.suppress(ValueError):
        user, colon, password = b64decode(coded.strip(), validate=True).partition(b":")
        return (user, password) if colon else ()
    return ()


def as_secrets(credentials: Iterable[bytes], salt: bytes) -> tuple[Secret, ...]:
    return tuple(
        Secret(len(value), blake2b(value, digest_size=16, key=salt).hexdigest())
        for value in credentials
    )


def masked(text: bytes, credentials: Iterable[bytes]) -> str:
    """The text as ISO-8859-1 with every credential in it masked."""
    for value in credentials:
        if value in text:
            text = text.replace(value, MASK.encode())
    return text.decode("latin-1")


def masked_target(path: bytes, query: bytes | None, credentials: Iterable[bytes]) -> str:
    """Path and query for the record: only the values of known, open parameters stay."""
    if query is None:
        return masked(path, credentials)
    kept = "&".join(_masked_part(part) for part in masked(query, credentials).split("&"))
    return f"{masked(path, credentials)}?{kept}"


def _masked_part(part: str) -> str:
    name, equals, _ = part.partition("=")
    if not equals or not _PLAIN_NAME.fullmatch(name):
        return MASK if part else part
    return part if name.lower().encode() in KEPT_PARAMETERS else f"{name}={MASK}"


def parameters(query: bytes | None) -> list[tuple[bytes, bytes]]:
    """The parameters of a query as sent, not decoded."""
    if not query:
        return []
    pairs = (part.partition(b"=") for part in query.split(b"&"))
    return [(name, value) for name, _, value in pairs]


def without_key_parameter(query: bytes | None) -> bytes | None:
    """The query without the agent's own key; the rest unchanged."""
    if query is None or not any(name in KEY_PARAMETERS for name, _ in parameters(query)):
        return query
    kept = [p for p in query.split(b"&") if p.partition(b"=")[0] not in KEY_PARAMETERS]
    return b"&".join(kept) or None


def protocol_keys(fields: Fields) -> list[bytes]:
    """Keys offered as subprotocols of a WebSocket, where a browser cannot set a header.

    `realtime, openai-insecure-api-key.KEY`: OpenAI's Realtime reads the part behind the dot;
    `token, KEY` or `bearer, KEY`: Deepgram and others read the offer behind the word.
    """
    keys = []
    is_announced = False
    lines = (value for name, _, value in fields if name == PROTOCOLS)  # one list, RFC 9110 §5.3
    for offer in filter(None, map(bytes.strip, b",".join(lines).split(b","))):
        if key := offer if is_announced else _key_within(offer):
            keys.append(key)
        is_word = not is_announced or len(offer) < SECRET_BYTES_MIN
        is_announced = is_word and _announces(offer)
    return keys


def without_protocol_keys(value: bytes, keys: Collection[bytes]) -> bytes:
    """A line of subprotocols without these keys and the words for them; else unchanged."""
    offered = value.split(b",")
    kept = [part for part in offered if not _is_for_key(part.strip(), keys)]
    return value if len(kept) == len(offered) else b",".join(kept).strip()


def _is_for_key(offer: bytes, keys: Collection[bytes]) -> bool:
    return offer in keys or bool(_key_within(offer)) or _announces(offer)


def _key_within(offer: bytes) -> bytes:
    """The key that one offer holds: behind its name and a dot, or behind a scheme."""
    name, _, key = offer.partition(b".")
    if _SECRET_NAME.search(name.lower()) or _announces(name):
        return key
    return b"" if (bare := without_scheme(offer)) == offer else bare


def _announces(offer: bytes) -> bool:
    return _ANNOUNCING.search(offer.lower()) is not None


def _cookie_values(value: bytes) -> list[bytes]:
    return [part.partition(b"=")[2].strip() for part in value.split(b";")]
