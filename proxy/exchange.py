"""Exchange: one request of an agent and the provider's answer, as bytes and times.

The noun between the wire and everything behind it. The gateway writes its parts to the spool as
they happen (`Start`, request bytes, `AnswerHead`, answer bytes, `End`); the recorder reads them
back as one `Exchange`. Nothing here knows what the bodies mean.

Instants are aware UTC, kept as integer nanoseconds since 1970 (`at_ns`); everything after the
start is an offset in microseconds on the monotonic clock (`at_us`).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson

from proxy.nouns import noun

EXCHANGE_VERSION = 1

Headers = tuple[tuple[str, str], ...]
"""Header fields in order, names in lower case, values decoded as ISO-8859-1."""


class Outcome(StrEnum):
    """How a call ended, as a row says it. The wire knows all but STREAM_ERROR."""

    COMPLETE = "complete"
    CLIENT_DISCONNECTED = "client_disconnected"
    UPSTREAM_ERROR = "upstream_error"  # the answer's status is 4xx or 5xx
    UPSTREAM_RESET = "upstream_reset"  # the answer was cut short
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"  # no connection, TLS refused
    STREAM_ERROR = "stream_error"  # an error event after status 200
    PROXY_CRASHED = "proxy_crashed"  # the gateway died while the call was open


@noun(frozen=True, slots=True)
class Labels:
    """What the agent said about the call in the path and in `x-telemetry-*` headers."""

    project: str | None = None
    session: str | None = None
    session_source: str | None = None  # "label" (header) or "path"
    turn: str | None = None
    chat_mode: str | None = None
    turn_intent: str | None = None
    extra: Headers = ()  # x-telemetry-label-NAME: (name, value)


@noun(frozen=True, slots=True)
class Secret:
    """A credential of the call, known only by its length and a keyed hash.

    `digest` is BLAKE2b-128 of the credential's bytes, keyed with `Start.salt`, in hex.
    """

    length: int
    digest: str


@noun(frozen=True, slots=True)
class Start:
    """The call as it was begun, written before the provider is called."""

    id: UUID  # UUIDv7, the row's id
    at_ns: int
    upstream: str
    dialect: str
    endpoint: str
    method: str
    target: str  # path and query as forwarded, credentials in the query masked
    headers: Headers = ()  # allow-listed request headers
    labels: Labels = field(default_factory=Labels)
    content: str = "full"  # or "metadata": no prompt, answer or tool content may be kept
    salt: str = ""  # hex key of the secrets' digests
    secrets: tuple[Secret, ...] = ()
    sequence: int = 0  # position among the calls this spool captured, from 1; set by the spool
    socket: UUID | None = None  # the WebSocket that the call was cut from

    @property
    def started_at(self) -> datetime:
        """Arrival of the request, aware UTC, to the microsecond."""
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.at_ns // 1000)

    def to_bytes(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_bytes(cls, data: bytes, sequence: int = 0) -> Start:
        """Raises ValueError, KeyError or TypeError where the bytes are no start."""
        raw: dict[str, Any] = orjson.loads(data)
        labels = dict(raw["labels"])
        labels["extra"] = _pairs(labels.get("extra", ()))
        return cls(
            **raw
            | {
                "id": UUID(raw["id"]),
                "headers": _pairs(raw["headers"]),
                "labels": Labels(**labels),
                "secrets": tuple(Secret(**secret) for secret in raw["secrets"]),
                "socket": UUID(raw["socket"]) if raw.get("socket") else None,
                "sequence": sequence or raw.get("sequence", 0),
            }
        )


@noun(frozen=True, slots=True)
class AnswerHead:
    """The head of the provider's final answer (not of a 1xx one). Nobody changes it."""

    at_us: int
    status: int
    headers: Headers = ()  # allow-listed answer headers

    def to_bytes(self) -> bytes:
        # Of a dict: of a dataclass it takes thrice as long.
        return orjson.dumps({"at_us": self.at_us, "status": self.status, "headers": self.headers})

    @classmethod
    def from_bytes(cls, data: bytes) -> AnswerHead:
        """Raises ValueError, KeyError or TypeError where the bytes are no answer head."""
        raw: dict[str, Any] = orjson.loads(data)
        return cls(**raw | {"headers": _pairs(raw["headers"])})


@noun(frozen=True, slots=True)
class End:
    """How the call ended on the wire, and measures of the whole bodies, kept or not.

    Nobody changes it.
    """

    at_us: int  # last byte relayed, or the break
    outcome: Outcome
    error: str | None = None  # for people; without credentials, query strings or body text
    request_bytes: int = 0
    response_bytes: int = 0
    request_sha256: str = ""  # empty where the body is kept whole: see `Exchange.request_sha256`
    response_sha256: str = ""
    request_complete: bool = True
    request_kept: int = 0  # bytes of the body that the spool holds; less than the above: truncated
    response_kept: int = 0
    is_recorded_elsewhere: bool = False  # by a gateway behind this one: makes no row here

    def to_bytes(self) -> bytes:
        return orjson.dumps(  # of a dict, as above
            {
                "at_us": self.at_us,
                "outcome": str(self.outcome),
                "error": self.error,
                "request_bytes": self.request_bytes,
                "response_bytes": self.response_bytes,
                "request_sha256": self.request_sha256,
                "response_sha256": self.response_sha256,
                "request_complete": self.request_complete,
                "request_kept": self.request_kept,
                "response_kept": self.response_kept,
                "is_recorded_elsewhere": self.is_recorded_elsewhere,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> End:
        """Raises ValueError, KeyError or TypeError where the bytes are no end."""
        raw: dict[str, Any] = orjson.loads(data)
        return cls(**raw | {"outcome": Outcome(raw["outcome"])})


@noun(frozen=True, slots=True)
class Piece:
    """Bytes of the answer as one read delivered them."""

    at_us: int
    data: bytes


@noun(frozen=True, slots=True)
class Exchange:
    """A whole exchange as the spool holds it. `end` is None where the gateway died first."""

    start: Start
    request: bytes = b""
    head: AnswerHead | None = None
    response: tuple[Piece, ...] = ()
    end: End | None = None

    @property
    def response_body(self) -> bytes:
        """The answer's body as it crossed the wire, content-encoding included."""
        return b"".join(piece.data for piece in self.response)

    @property
    def request_sha256(self) -> str | None:
        """Of the whole body, in hex; None where it was cut without having been hashed."""
        end = self.end
        return _sha256(end.request_sha256, end.request_bytes, self.request) if end else None

    @property
    def response_sha256(self) -> str | None:
        """As `request_sha256`."""
        end = self.end
        return _sha256(end.response_sha256, end.response_bytes, self.response_body) if end else None

    def to_bytes(self) -> bytes:
        """The exchange as one JSON document, bodies in base64: raw copies, files, `decode FILE`."""
        return orjson.dumps(
            {
                "version": EXCHANGE_VERSION,
                "start": self.start,
                "request": _base64(self.request),
                "head": self.head,
                "response": [[piece.at_us, _base64(piece.data)] for piece in self.response],
                "end": self.end,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Exchange:
        """Raises ValueError, KeyError or TypeError where the bytes are no exchange."""
        raw: dict[str, Any] = orjson.loads(data)
        if raw["version"] != EXCHANGE_VERSION:
            raise ValueError(f"exchange of version {raw['version']}; this is {EXCHANGE_VERSION}")
        head, end = raw["head"], raw["end"]
        return cls(
            Start.from_bytes(orjson.dumps(raw["start"])),
            b64decode(raw["request"]),
            AnswerHead.from_bytes(orjson.dumps(head)) if head else None,
            tuple(Piece(int(at_us), b64decode(data)) for at_us, data in raw["response"]),
            End.from_bytes(orjson.dumps(end)) if end else None,
        )

    def request_header(self, name: str) -> str | None:
        """The first kept request header of this lower-case name."""
        return _first(self.start.headers, name)

    def response_header(self, name: str) -> str | None:
        """The first kept answer header of this lower-case name."""
        return _first(self.head.headers if self.head else (), name)

    @property
    def request_coding(self) -> str | None:
        """What the request's body was encoded with, in the order in which it was."""
        return _listed(self.start.headers, "content-encoding")

    @property
    def response_coding(self) -> str | None:
        """What the answer's body was encoded with, in the order in which it was."""
        return _listed(self.head.headers if self.head else (), "content-encoding")


def _first(headers: Headers, wanted: str) -> str | None:
    return next((value for name, value in headers if name == wanted), None)


def _listed(headers: Headers, wanted: str) -> str | None:
    """A list that may stand in several lines (RFC 9110, section 5.3)."""
    return ", ".join(value for name, value in headers if name == wanted) or None


def _sha256(noted: str, size: int, kept: bytes) -> str | None:
    if noted or len(kept) != size:
        return noted or None
    return sha256(kept).hexdigest()


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _pairs(raw: Any) -> Headers:
    return tuple((str(name), str(value)) for name, value in raw)
