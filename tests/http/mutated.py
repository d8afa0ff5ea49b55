"""Mutated: byte strings that were requests before something happened to them.

Drawn from a seed: a request of the cases, damaged one to four times: bytes flipped, cut, doubled or
inserted, two requests spliced, dangerous words put in. Secrets and the tripwire's address stand in
many, so that a leak or a wrong turn shows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from tests.http.cases import CHAT, all_cases

CANARY = b"sk-canary-0123456789abcdef"
# A path is no place for a secret: what stands in one is forwarded and logged as the path it is.
_SECRET_IN_PATH = re.compile(rb"/[^\s?]*" + CANARY[:8])
PIECE = CANARY[:14]  # what is looked for: the beginning would be a leak too

_WORDS = (
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"/", b"//", b"\\", b"..", b"%00"),
    *(b"%0d%0a", b"#", b"@", b"?", b"&key=", b"\xff", b"\xc3\xa9", b"0\r\n\r\n"),
    *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0"),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Connection: upgrade\r\n"),
    *(b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"ffffffffffffffff\r\n", b"-1\r\n"),
    *(b"GET ", b"CONNECT ", b"POST ", b"PRI * HTTP/2.0\r\n\r\n", b"\x16\x03\x01", b"a" * 300),
    *(b"/p/x", b"/s/", b"/t/token", b"/fake", b"/v1", b"/v1beta", b"/telemetry/v1/turns"),
)  # fmt: skip


def strings(seed: int, number: int, tripwire: int) -> Iterator[bytes]:
    """That many strings; `tripwire` is the port of a listener that must not be reached."""
    rng = random.Random(seed)
    where = b"127.0.0.1:%d" % tripwire
    words = (
        *_WORDS,
        *(b"http://%b/" % where, b"//%b/" % where, b"@" + where, b"Host: %b\r\n" % where),
        *(b"X-Forwarded-Host: %b\r\n" % where, b"x-base-url: http://%b\r\n" % where, where),
        b"Authorization: Bearer %b\r\n" % CANARY,
    )
    requests = [case.request for case in all_cases() if len(case.request) < 3_000]
    target = b"POST %b?%b&key=%b HTTP/1.1\r\n" % (CHAT, CANARY, CANARY)
    fields = b"Host: %b\r\nAuthorization: Bearer %b\r\nContent-Length: 2\r\n" % (where, CANARY)
    requests += [target + fields + b"\r\n{}"] * 100
    sent = 0
    while sent < number:
        data = rng.choice(requests)
        for _ in range(rng.randint(1, 4)):
            data = _damaged(rng, data, words, requests)
        if not _SECRET_IN_PATH.search(data):
            sent += 1
            yield data


def _damaged(
    rng: random.Random, data: bytes, words: tuple[bytes, ...], requests: list[bytes]
) -> bytes:
    at = rng.randrange(len(data) + 1)
    to = min(len(data), at + rng.randint(1, 8))
    match rng.randrange(8):
        case 0:
            flipped = bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1])
            return data[:at] + flipped + data[at + 1 :]
        case 1:
            return data[:at] + data[to:]
        case 2:
            return data[:to] + data[at:to] + data[to:]
        case 3:
            return data[:at] or b"\0"
        case 4:
            other = rng.choice(requests)
            return data[:at] + other[rng.randrange(len(other)) :]
        case 5:
            return data[:at] + rng.randbytes(rng.randint(1, 4)) + data[to:]
        case _:
            return data[:at] + rng.choice(words) + data[at:]
