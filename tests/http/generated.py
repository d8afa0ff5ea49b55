"""Generated: exchanges drawn from a seed, with everything that may vary on the wire.

Five codings, every framing, bodies of any size, and writes split anywhere: in a chunk's size, in a
character, between CR and LF. Each exchange is a value; the same seed draws the same one.
"""

from __future__ import annotations

import gzip
import random
import zlib
from dataclasses import dataclass

import brotli
import zstandard

from tests.http.cases import CHAT, LIST

CODINGS = ("identity", "gzip", "deflate", "br", "zstd")
FRAMINGS = ("length", "chunked", "close", "close 1.0")
_WORDS = (
    b"data: ",
    b"\n\n",
    b"event: x\r\n",
    b'{"a":',
    b"[DONE]",
    "é€😀".encode(),
    b"\x00\xff",
    b"0\r\n\r\n",
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One exchange: what is written at both ends, and what must arrive."""

    request: bytes  # as sent, split into writes
    request_writes: list[bytes]
    request_body: bytes
    answer_writes: list[bytes]
    answer_body: bytes
    answer_lines: list[bytes]  # end-to-end field lines
    status_line: bytes
    closes: bool  # the provider closes behind its answer
    is_recorded: bool


def draw(seed: int) -> Drawn:
    rng = random.Random(seed)
    is_recorded = rng.random() < 0.7
    request_body = _body(rng)
    request = _request(rng, CHAT if is_recorded else LIST, request_body)
    coding = rng.choice(CODINGS)
    body = _coded(_body(rng), coding)
    framing = rng.choice(FRAMINGS)
    lines = [b"Content-Type: text/event-stream", *_fields(rng)]
    if coding != "identity":
        lines.append(b"Content-Encoding: " + coding.encode())
    version = b"1.0" if framing == "close 1.0" else b"1.1"
    status = rng.choice((b"200 OK", b"200 ", b"201 Made", b"429 Slow Down", b"500 Oh"))
    wire = b"HTTP/%b %b\r\n" % (version, status) + _framed(rng, lines, framing, body)
    return Drawn(
        request,
        split(rng, request),
        request_body,
        split(rng, wire),
        body,
        [*lines, *([b"Content-Length: %d" % len(body)] if framing == "length" else [])],
        b"HTTP/1.1 " + status,
        framing.startswith("close"),
        is_recorded,
    )


def split(rng: random.Random, data: bytes) -> list[bytes]:
    """The data whole, byte by byte (its first kilobyte), or at random places."""
    how = rng.choice(("whole", "bytes", "random", "random"))
    if how == "whole":
        return [data]
    if how == "bytes":
        return [data[at : at + 1] for at in range(min(len(data), 1024))] + [data[1024:]]
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 30)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def _body(rng: random.Random) -> bytes:
    """Up to 200 kB, mostly small; bytes that look like framing, and such as no text holds."""
    if rng.random() < 0.05:
        return b""
    size = int(2 ** rng.uniform(0, 17.6))
    if rng.random() < 0.3:
        return rng.randbytes(size)
    body = b"".join(rng.choices(_WORDS, k=size // 4 + 1))
    return body[:size]


def _coded(body: bytes, coding: str) -> bytes:
    match coding:
        case "gzip":
            return gzip.compress(body[: len(body) // 2], 1) + gzip.compress(
                body[len(body) // 2 :], 1
            )
        case "deflate":
            return zlib.compress(body, 1)
        case "br":
            return brotli.compress(body, quality=1)
        case "zstd":
            return zstandard.compress(body, 1)
        case _:
            return body


def _fields(rng: random.Random) -> list[bytes]:
    drawn = []
    for number in range(rng.randrange(6)):
        name = rng.choice((b"x-a", b"X-A", b"Set-Cookie", b"X-RateLimit-%d" % number, b"Server"))
        value = bytes(rng.choice(b'abc ;,=\t\xe9\xff"\\') for _ in range(rng.randrange(20)))
        drawn.append(name + b": " + value.strip(b" \t"))
    return drawn


def _request(rng: random.Random, path: bytes, body: bytes) -> bytes:
    framing = rng.choice(("length", "length", "chunked"))
    lines = [b"POST " + path + b"?n=%d HTTP/1.1" % rng.randrange(10**9), b"Host: x", *_fields(rng)]
    lines = [line for line in lines if not line.startswith(b"Server")]
    return b"\r\n".join((*lines, b"")) + _framed(rng, [], framing, body)


def _framed(rng: random.Random, lines: list[bytes], framing: str, body: bytes) -> bytes:
    """Field lines, the empty line and the body in its framing."""
    if framing == "length":
        lines = [*lines, b"Content-Length: %d" % len(body)]
    elif framing == "chunked":
        lines = [*lines, b"Transfer-Encoding: chunked"]
        body = _chunked(rng, body)
    return b"\r\n".join((*lines, b"", body))


def _chunked(rng: random.Random, body: bytes) -> bytes:
    out, at = [], 0
    while at < len(body):
        piece = body[at : at + int(2 ** rng.uniform(0, 15))]
        size = b"%x" % len(piece) if rng.random() < 0.5 else b"%04X" % len(piece)
        extension = rng.choice((b"", b"", b";a=b", b';q="\\""'))
        out.append(size + extension + b"\r\n" + piece + b"\r\n")
        at += len(piece)
    return b"".join(out) + b"0\r\n\r\n"
