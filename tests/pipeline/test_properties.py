"""Properties of the way from bytes to a row, for bytes that nobody foresaw.

A short form runs with the suite; `make fuzz` runs the long one (profile `fuzz` in conftest).
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import Any
from uuid import UUID

import brotli
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from proxy.assemble import Assembler
from proxy.call import Json, ModelCall
from proxy.config import Redaction
from proxy.decode.dispatch import decode
from proxy.enrich.redact import Redactor
from proxy.enrich.redact_rules import PII
from proxy.environment import load
from proxy.exchange import Exchange, Piece, Start
from proxy.record import COLUMNS, TelemetryRecord
from proxy.store.storable import storable
from tests.decode.cases import ENDPOINTS, all_cases, body_of, exchange

PACK = {
    None: lambda data: data,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda data: brotli.compress(data, quality=1),
    "zstd": zstandard.compress,
}
CODINGS = st.sampled_from([*PACK, "gzip, br", "identity", "x-unknown"])
TYPES = st.sampled_from(
    ["application/json", "text/event-stream", "application/x-ndjson", "text/html", None]
)
STATUSES = st.sampled_from([200, 200, 200, 201, 400, 429, 500])
REAL = [json.dumps(case["request"]).encode() for _, case in all_cases()]
REAL += [body_of(case["answer"]) for _, case in all_cases()]
JUNK = [
    b"null",
    b"{}",
    b"[",
    b"]",
    b"\\ud800",
    b"\0",
    b"\n\n",
    b"data: ",
    b'"',
    b"1e999",
    b"-",
    b"[]",
]


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """A real body with some places cut out, doubled or filled with something else."""
    body = draw(st.sampled_from(REAL))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(body)))
        to = min(len(body), at + draw(st.integers(0, 40)))
        put = draw(st.sampled_from([b"", body[at:to] * 2, *JUNK]) | st.binary(max_size=8))
        body = body[:at] + put + body[to:]
    return body


BODIES = bent() | st.binary(max_size=200)


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    """Any bytes on both sides, under labels that may be right or wrong."""
    request, answer = draw(BODIES), draw(BODIES)
    coding, packed = draw(CODINGS), draw(st.booleans())
    pack = PACK.get(coding, gzip.compress)
    return exchange(
        draw(st.sampled_from([*ENDPOINTS, "unheard-of"])),
        pack(request) if packed else request,
        pack(answer) if packed else answer,
        status=draw(STATUSES),
        content_type=draw(TYPES),
        coding=coding,
        request_coding=coding,
        target=draw(st.sampled_from(["/", "/v1beta/models/x:generateContent", "/model/a%2Fb/x"])),
    )


@cache
def assembler() -> Assembler:
    return Assembler(load(None, {"AGENT_TELEMETRY__DATA_DIR": "/nowhere"}))


@given(exchanges())
def test_any_bytes_become_a_call_and_a_row_that_can_be_stored(given_exchange: Exchange) -> None:
    """Whatever the bytes, decoding and assembling give values that PostgreSQL takes."""
    call = decode(given_exchange)
    assert isinstance(call, ModelCall)
    row = dict(zip(COLUMNS, storable(assembler().assembled(given_exchange).record), strict=True))
    assert not any("failed" in problem for problem in call.problems), call.problems
    for column in ("chat_history", "request_params", "tool_calls", "usage", "capture"):
        assert row[column] is None or is_storable_json(row[column])
    for column in ("system_prompt", "user_message", "response_text", "model_used", "error"):
        assert b"\0" not in (row[column] or "").encode()  # raises at a lone surrogate


def is_storable_json(text: str) -> bool:
    """Whether jsonb takes it: valid JSON in UTF-8 without NUL and lone surrogates."""
    json.loads(text)
    return "\\u0000" not in text.replace("\\\\", "") and bool(text.encode())


@given(exchanges(), st.lists(st.integers(0, 400), max_size=8))
def test_how_bytes_were_split_changes_nothing(whole: Exchange, cuts: list[int]) -> None:
    """decode(whole) = decode(any split), but for the time of the first content."""
    body = whole.response_body
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    pieces = tuple(Piece(n, body[a:b]) for n, (a, b) in enumerate(pairwise(places)))
    assert timeless(replace(whole, response=pieces)) == timeless(whole)


def timeless(given_exchange: Exchange) -> ModelCall:
    call = decode(given_exchange)
    return replace(call, answer=replace(call.answer, first_content_us=None))


REDACTOR = Redactor(Redaction(pii=tuple(rule.name for rule in PII)))  # type: ignore[arg-type] # data
FRAGMENTS = st.sampled_from(
    [
        *("sk-proj-", "sk-ant-api03-", "ghp_", "AKIA", "AIza", "xoxb-1-", "eyJhbGciOi", ".", "-"),
        *("password=", "postgres://u:", "@host/db", "-----BEGIN PRIVATE KEY-----", "-----END", "_"),
        *("aB3dE5fG7hI9kL1m" * 2, "A" * 20, "4111 1111 1111 1111", "a@b.example", "[REDACTED:"),
        *("DE89370400440532013000", "10.1.2.3", "+49 170 1234567", "%2F", "\\u002f", "\ud800"),
        *("]", " ", "\\n"),
    ]
)
TEXTS = st.lists(FRAGMENTS | st.text(max_size=8), max_size=12).map("".join)
VALUES = st.recursive(
    TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)


@given(TEXTS, st.lists(VALUES, max_size=3))
def test_what_is_redacted_once_stays_as_it_is(text: str, history: list[Json]) -> None:
    """redact(redact(x)) = redact(x), for texts made of pieces of secrets."""
    columns: dict[str, Any] = {"response_text": text, "chat_history": history}
    record = TelemetryRecord(UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC), "m", 1, **columns)
    start = Start(UUID(int=1), 0, "u", "openai", "e", "POST", "/", salt="5a" * 32)
    once = REDACTOR.scan(start).record(record)
    scan = REDACTOR.scan(start)
    assert scan.record(once) == once
    assert not scan.counts
