# ruff: noqa: E501  (tables of bytes: one case, one line)
"""Cases: raw requests, and the raw answers that the provider gives them.

Data only. Each case is one exchange of a table's group; requests speak to the upstream `fake`, whose
base path is `/fake` too, so that every front forwards the same target.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

CHAT = b"/fake/v1/chat/completions"
LIST = b"/fake/v1/models"
OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'


@dataclass(frozen=True, slots=True)
class Case:
    """One exchange: what the agent sends, what the provider answers."""

    group: str
    name: str
    request: bytes
    answer: bytes = OK
    closes: bool = False  # the provider closes after its answer

    @property
    def is_last(self) -> bool:
        """Whether the request itself says that the connection ends behind it."""
        head, _, rest = self.request.partition(b"\r\n\r\n")
        asks = (
            re.search(rb"(?i)\r\nconnection:[^\r]*close", head)
            or b" HTTP/1.0" in head.partition(b"\r\n")[0]
        )
        return bool(asks) and not rest.startswith(b"GET")


def lines(*parts: bytes) -> bytes:
    return b"\r\n".join((*parts, b"", b""))


def get(
    target: bytes, *fields: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1"
) -> bytes:
    return lines(b" ".join((method, target, version)), b"Host: x", *fields)


def post(*fields: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return lines(b"POST " + CHAT + b" " + version, b"Host: x", *fields) + body


def shown(data: bytes, limit: int = 60) -> str:
    """A case's name from the bytes in question."""
    text = data.decode("latin-1").encode("unicode_escape").decode()
    return text if len(text) <= limit else f"{text[:limit]}… ({len(data)} bytes)"


def all_cases() -> list[Case]:
    cases = [
        *_targets(),
        *_request_lines(),
        *_fields(),
        *_lengths(),
        *_codings(),
        *_chunks(),
        *_hop_by_hop(),
        *_upgrades(),
        *_pipelines(),
        *_answers(),
        *_bodiless_answers(),
        *_own_headers(),
    ]
    assert len({(case.group, case.name) for case in cases}) == len(cases), "names are unique"
    return cases


def _targets() -> Iterator[Case]:
    rests = [
        b"", b"/", b"//", b"/v1//models", b"/v1/./models", b"/v1/../models", b"/../../etc/passwd",
        b"/%2e%2e/x", b"/..%2f..%2fx", b"/a%2Fb", b"/a%2fb", b"/%41", b"/%7Euser", b"/~user",
        b"/%", b"/%zz", b"/%0", b"/a%00b", b"/a%0d%0aX-Y:%201", b"/a%20b", b"/a+b", b"/a;v=1",
        b"/models/g:generateContent", b"/models/g%3AgenerateContent", b"/?", b"/??", b"/?a", b"/?a=",
        b"/?a=1&a=2", b"/?a=1;b=2", b"/?q=/../x", b"/?q=%00", b"/?u=http://169.254.169.254/",
        b"/x?a#b", b"/#frag", b"/a\\b", b"/a[b]", b"/a|b", b'/a"b', b"/a<b>", b"/a{b}", b"/a^b",
        b"/a`b", b"/a'b", b"/a*b", b"/a,b", b"/a@b", b"/a!$&()=b", b"/\xc3\xa9", b"/\xff", b"/\xc0\xaf",
        b"/a\tb", b"/a\x0bb", b"/a\x00b", b"/a\x7fb", b"/a\x1fb", b"/" + b"a" * 4_000,
        b"/?" + b"q" * 4_000,
    ]  # fmt: skip
    for rest in rests:
        yield Case("target", shown(b"/fake" + rest), get(b"/fake" + rest))
    whole = [
        b"http://x/fake/v1/models", b"http://169.254.169.254/latest", b"https://evil.test/",
        b"HTTP://x/fake/v1", b"ftp://x/fake", b"http:/fake/v1", b"http:///fake/v1", b"//evil.test/x",
        b"///fake", b"x:443", b"evil.test", b"@evil.test/", b"fake/v1", b"*", b"?a=b", b"#", b"\\fake",
        b"/\\evil.test/x", b".", b"http://user:pw@x/fake/v1", b"http://x:0/fake", b"javascript:1",
    ]  # fmt: skip
    for target in whole:
        yield Case("target", shown(target), get(target))
    yield Case("target", "OPTIONS *", get(b"*", method=b"OPTIONS"))


def _request_lines() -> Iterator[Case]:
    methods = [
        b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"PROPFIND", b"QUERY", b"PURGE",
        b"M-SEARCH", b"REPORT", b"LINK", b"FOO", b"get", b"Get", b"G@T", b"G T", b"\x00GET", b"GET\x0b",
        b"PRI",
    ]  # fmt: skip
    for method in methods:
        yield Case("request line", f"method {shown(method)}", get(LIST, method=method))
    for target in (b"evil.test:443", b"/fake/v1/models", b"x", b"[::1]:80"):
        raw = get(target, method=b"CONNECT")
        yield Case("request line", f"CONNECT {shown(target)}", raw)
    versions = [
        b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1", b"HTTP/01.1", b"HTTP/1.10",
        b"HTTP/1.1 ", b"http/1.1", b"HTTPS/1.1", b"HTTP/1.1\x00", b"HTTP 1.1", b"ICE/1.0", b"",
    ]  # fmt: skip
    for version in versions:
        yield Case("request line", f"version {shown(version)!r}", get(LIST, version=version))
    raws = [
        ("no version (HTTP/0.9)", b"GET " + LIST + b"\r\n\r\n"),
        ("two spaces before the target", b"GET  " + LIST + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("two spaces after the target", b"GET " + LIST + b"  HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("tabs for spaces", b"GET\t" + LIST + b"\tHTTP/1.1\r\nHost: x\r\n\r\n"),
        ("space before the method", b" GET " + LIST + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("empty line first", b"\r\n" + get(LIST)),
        ("three empty lines first", b"\r\n\r\n\r\n" + get(LIST)),
        ("bare LF first", b"\n" + get(LIST)),
        ("bare LF throughout", get(LIST).replace(b"\r\n", b"\n")),
        ("bare LF after the request line", get(LIST).replace(b"\r\n", b"\n", 1)),
        ("bare CR throughout", get(LIST).replace(b"\r\n", b"\r") + b"\r\n\r\n"),
        ("bare CR in the request line", get(LIST + b"\rX")),
        ("TLS ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("an answer for a request", OK),
        ("HTTP/1.0 without Host", b"GET " + LIST + b" HTTP/1.0\r\n\r\n"),
        ("HTTP/1.0 with keep-alive", get(LIST, b"Connection: keep-alive", version=b"HTTP/1.0")),
    ]
    for name, raw in raws:
        yield Case("request line", name, raw)


def _fields() -> Iterator[Case]:
    single = [
        b"X-A:1", b"X-A: ", b"X-A:", b"X-A:  1  ", b"X-A:\t1\t", b"X-A: a\tb", b"X-A: a  b", b"X-A : 1",
        b"X-A\t: 1", b" X-A: 1", b": 1", b"X-A", b"X A: 1", b"X-A: 1\r\n 2", b"X-A: 1\r\n\t2",
        b"X-A:\r\n 1", b"X-A: 1\r\n\r 2", b"X-A: a\x00b", b"X-A: a\rb", b"X-A: a\nX-B: b", b"X-A: a\x0bb",
        b"X-A: a\x7fb", b"X-A: a\x01b", b"X\x00A: 1", b"X-\xe9: 1", b"X-A: \xe9", b"X-A: caf\xc3\xa9",
        b"X-A: \xff\xfe", b"X(A): 1", b"X@A: 1", b"X/A: 1", b"X_A: 1", b"x-a: 1\r\nX-A: 2",
        b'X-A: "quoted, string"', b"!#$%&'*+-.^_`|~: 1", b"X-A: " + b"a" * 4_000,
        b"X-" + b"n" * 200 + b": 1", b"Cookie: a=1; b=2", b"Cookie: a=1\r\nCookie: b=2",
        b"User-Agent: a\r\nUser-Agent: b", b"Content-Type: a/b\r\nContent-Type: c/d",
        b"Accept: a/b\r\nAccept: c/d", b"Authorization: Bearer a\r\nAuthorization: Bearer b",
        b"Server: a\r\nServer: b", b"Max-Forwards: 0", b"Range: bytes=0-1", b"Accept-Encoding: zstd",
        b"Via: 1.1 other", b"X-Forwarded-For: 1.2.3.4", b"Forwarded: for=1.2.3.4", b"Date: never",
        b"X-Forwarded-Host: evil.test", b"X-Original-URL: /admin", b"X-Rewrite-URL: /admin",
        b"X-HTTP-Method-Override: DELETE", b"Referer: http://x/?key=1",
    ]  # fmt: skip
    for field in single:
        yield Case("field", shown(field), get(LIST, field))
    hosts = [
        b"Host: y", b"Host: 127.0.0.1:1", b"Host: evil.test@x", b"Host: x/y", b"Host: x y", b"Host: [::1]",
        b"Host: x:99999", b"Host:", b"Host: x\r\nHost: x", b"Host: x\r\nHost: y", b"Host: x,y",
        b"Host: \xe9", b"X-No-Host: 1", b"Host : x", b"hOsT: x", b"Host: x\r\n y",
    ]  # fmt: skip
    for host in hosts:
        yield Case("host", shown(host), lines(b"GET " + LIST + b" HTTP/1.1", host))
    for number in (90, 400, 600):
        many = [b"X-%d: 1" % i for i in range(number)]
        yield Case("field", f"{number} fields", get(LIST, *many))
    for size in (9_000, 60_000, 70_000):
        yield Case("field", f"one of {size} bytes", get(LIST, b"X-A: " + b"a" * size))
    yield Case("field", "five of 60000 bytes", get(LIST, *[b"X-%d: %b" % (i, b"a" * 60_000) for i in range(5)]))  # fmt: skip


def _lengths() -> Iterator[Case]:
    values = [
        b"2", b"02", b"0000000002", b" 2", b"2 ", b"\t2", b"+2", b"-2", b"-0", b"2.0", b"2e0", b"0x2",
        b"2,2", b"2, 2", b"2 2", b"2;", b"2_0", b"a", b"", b"\xb2", b'"2"', b"18446744073709551618",
        b"99999999999999999999999", b"2\x0b", b"2\x00", b"2\r\n ", b"\r\n 2", b"0, 2", b"2,",
    ]  # fmt: skip
    for value in values:
        raw = post(b"Content-Length: " + value, body=b"{}")
        yield Case("Content-Length", shown(value) or "empty", raw)
    pairs = [
        ("twice the same", (b"Content-Length: 2", b"Content-Length: 2")),
        ("twice, first shorter", (b"Content-Length: 1", b"Content-Length: 2")),
        ("twice, first longer", (b"Content-Length: 2", b"Content-Length: 1")),
        ("twice, one empty", (b"Content-Length: 2", b"Content-Length:")),
        ("name in lower case", (b"content-length: 2",)),
        ("space before the colon", (b"Content-Length : 2",)),
        ("underscore", (b"Content_Length: 2",)),
        ("named by Connection", (b"Content-Length: 2", b"Connection: content-length")),
        ("after a NUL name", (b"\x00Content-Length: 2",)),
        ("absent", ()),
    ]
    for name, fields in pairs:
        yield Case("Content-Length", name, post(*fields, body=b"{}"))
    yield Case("Content-Length", "0", post(b"Content-Length: 0"))
    yield Case("Content-Length", "longer than the body", post(b"Content-Length: 400", body=b"{}"))
    yield Case("Content-Length", "GET with a body", get(LIST, b"Content-Length: 2") + b"{}")
    yield Case("Content-Length", "HEAD with a body", get(LIST, b"Content-Length: 2", method=b"HEAD") + b"{}")  # fmt: skip
    yield Case("Content-Length", "DELETE with a body", get(LIST, b"Content-Length: 2", method=b"DELETE") + b"{}")  # fmt: skip
    yield Case("Content-Length", "in HTTP/1.0", post(b"Content-Length: 2", body=b"{}", version=b"HTTP/1.0"))  # fmt: skip


_BODY = b"2\r\n{}\r\n0\r\n\r\n"


def _codings() -> Iterator[Case]:
    values = [
        b"chunked", b"Chunked", b"CHUNKED", b" chunked", b"\tchunked", b"chunked ", b"chunked,",
        b",chunked", b"chunked, chunked", b"chunked,identity", b"identity, chunked", b"identity", b"gzip",
        b"gzip, chunked", b"chunked, gzip", b"xchunked", b"chunkedx", b"chunked;q=1", b'"chunked"',
        b"chunk", b"", b"\x0bchunked", b"chunked\x00", b"\xc3\xa7hunked", b"chunked\r\n ", b"\r\n chunked",
        b"chunked\x0b", b"[chunked]", b"chunked foo", b"deflate", b"trailers, chunked",
    ]  # fmt: skip
    for value in values:
        raw = post(b"Transfer-Encoding: " + value, body=_BODY)
        yield Case("Transfer-Encoding", shown(value) or "empty", raw)
    te, cl = b"Transfer-Encoding: chunked", b"Content-Length: 12"
    together: list[tuple[str, tuple[bytes, ...]]] = [
        ("then Content-Length", (te, cl)),
        ("after Content-Length", (cl, te)),
        ("with Content-Length: 0", (te, b"Content-Length: 0")),
        ("with Content-Length: 2", (b"Content-Length: 2", te)),
        ("twice", (te, te)),
        ("chunked, then identity", (te, b"Transfer-Encoding: identity")),
        ("identity, then chunked", (b"Transfer-Encoding: identity", te)),
        ("chunked, then an unknown one", (te, b"Transfer-Encoding: cow")),
        ("space before the colon", (b"Transfer-Encoding : chunked",)),
        ("underscore", (b"Transfer_Encoding: chunked", b"Content-Length: 12")),
        ("leading space", (b"X-A: 1", b" Transfer-Encoding: chunked", cl)),
        ("name with a control byte", (b"\x0bTransfer-Encoding: chunked", cl)),
        ("in the value of another", (b"X-A: a\nTransfer-Encoding: chunked", cl)),
        ("named by Connection", (te, b"Connection: transfer-encoding")),
        ("name in capitals", (b"TRANSFER-ENCODING: chunked",)),
        ("after a colon in the name", (b"X:Transfer-Encoding: chunked", cl)),
    ]
    for name, fields in together:
        yield Case("Transfer-Encoding", name, post(*fields, body=_BODY))
    yield Case("Transfer-Encoding", "in HTTP/1.0", post(te, body=_BODY, version=b"HTTP/1.0"))
    yield Case("Transfer-Encoding", "in HTTP/1.0 with a length", post(te, cl, body=_BODY, version=b"HTTP/1.0"))  # fmt: skip
    yield Case("Transfer-Encoding", "in a GET", get(LIST, te) + _BODY)


def _chunks() -> Iterator[Case]:
    bodies = [
        b"2\r\n{}\r\n0\r\n\r\n", b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", b"A\r\n0123456789\r\n0\r\n\r\n",
        b"a\r\n0123456789\r\n0\r\n\r\n", b"0002\r\n{}\r\n000\r\n\r\n", b"0\r\n\r\n", b"2\r\n{}\r\n00000000\r\n\r\n",
        b"0x2\r\n{}\r\n0\r\n\r\n", b"+2\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b" 2\r\n{}\r\n0\r\n\r\n",
        b"2 \r\n{}\r\n0\r\n\r\n", b"2\t\r\n{}\r\n0\r\n\r\n", b"g\r\n{}\r\n0\r\n\r\n", b"\r\n{}\r\n0\r\n\r\n",
        b"2;a=b\r\n{}\r\n0\r\n\r\n", b'2;a="b;c"\r\n{}\r\n0\r\n\r\n', b"2;\r\n{}\r\n0\r\n\r\n",
        b"2;a\x00\r\n{}\r\n0\r\n\r\n", b"2;a\nb\r\n{}\r\n0\r\n\r\n", b"2 ; a\r\n{}\r\n0\r\n\r\n",
        b"2;" + b"e" * 9_000 + b"\r\n{}\r\n0\r\n\r\n", b"2\n{}\r\n0\r\n\r\n", b"2\r\n{}\n0\r\n\r\n",
        b"2\n{}\n0\n\n", b"2\r{}\r\n0\r\n\r\n", b"2\r\n{}0\r\n\r\n", b"2\r\n{}xx0\r\n\r\n", b"1\r\n{}\r\n0\r\n\r\n",
        b"3\r\n{}\r\n0\r\n\r\n", b"fffffffffffffff0\r\n{}\r\n0\r\n\r\n", b"10000000000000002\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}\r\n0\r\nX-T: 1\r\n\r\n", b"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n",
        b"2\r\n{}\r\n0\r\nTransfer-Encoding: gzip\r\n\r\n", b"2\r\n{}\r\n0\r\nHost: evil.test\r\n\r\n",
        b"2\r\n{}\r\n0\r\nAuthorization: a\r\n\r\n", b"2\r\n{}\r\n0\r\nX T: 1\r\n\r\n", b"2\r\n{}\r\n0\r\nX-T: a\x00\r\n\r\n",
        b"2\r\n{}\r\n0\r\n X-T: 1\r\n\r\n", b"2\r\n{}\r\n0\r\nX-T\r\n\r\n", b"2\r\n{}\r\n0\r\nX-T: " + b"t" * 9_000 + b"\r\n\r\n",
        b"2\r\n{}\r\n0;last\r\n\r\n", b"2\r\n{}\r\n0\n\r\n", b"2\r\n{}\r\n0\r\n\n", b"2\r\n{}\r\n",
    ]  # fmt: skip
    te = b"Transfer-Encoding: chunked"
    for body in bodies:
        yield Case("chunk", shown(body), post(te, body=body))
    yield Case("chunk", "declared trailer", post(te, b"Trailer: X-T", body=b"2\r\n{}\r\n0\r\nX-T: 1\r\n\r\n"))  # fmt: skip
    yield Case(
        "chunk", "a thousand of one byte", post(te, body=b"1\r\na\r\n" * 1_000 + b"0\r\n\r\n")
    )
    yield Case("chunk", "smuggled request behind the end", post(te, body=_BODY + get(b"/fake/smuggled")))  # fmt: skip
    yield Case("chunk", "request in place of a chunk", post(te, body=get(b"/fake/smuggled")))


def _hop_by_hop() -> Iterator[Case]:
    fields: list[tuple[bytes, ...]] = [
        (b"Connection: keep-alive",), (b"Connection: close",), (b"Connection: Keep-Alive, close",),
        (b"Connection:",), (b"Connection: ,",), (b"Connection: x",), (b"Connection: X-A", b"X-A: 1"),
        (b"Connection: close, X-A", b"X-A: 1"), (b"Connection: x-a,x-b", b"X-A: 1", b"X-B: 2"),
        (b"Connection: X-A", b"Connection: X-B", b"X-A: 1", b"X-B: 2"), (b"X-A: 1", b"Connection: X-A"),
        (b"Connection: Host",), (b"Connection: Authorization", b"Authorization: a"),
        (b"Connection: Cookie", b"Cookie: a=1"), (b"Connection: Accept", b"Accept: */*"),
        (b"Connection: X-Api-Key", b"X-Api-Key: a"), (b"Connection: Content-Type", b"Content-Type: a/b"),
        (b"Connection: anthropic-version", b"anthropic-version: 1"), (b"Connection: Expect",),
        (b"Connection: User-Agent", b"User-Agent: a"), (b"Connection: \xe9",), (b"Connection: a b", b"A: 1"),
        (b"Connection: x-forwarded-for", b"X-Forwarded-For: 1"), (b"Connection: via", b"Via: 1.1 a"),
        (b"Keep-Alive: timeout=5",), (b"Keep-Alive: timeout=5", b"Connection: keep-alive"),
        (b"Proxy-Connection: keep-alive",), (b"Proxy-Connection: close",), (b"Proxy-Authorization: Basic a",),
        (b"Proxy-Authenticate: Basic",), (b"TE: trailers",), (b"TE: trailers", b"Connection: TE"),
        (b"TE: gzip",), (b"TE: gzip;q=0.5, trailers",), (b"Trailer: X-A",), (b"Upgrade: foo",),
        (b"Connection: Upgrade",), (b"Connection: keep-alive, Trailer", b"Trailer: X-A"),
        (b"Connection: te, close", b"TE: trailers"), (b"Connection: proxy-connection",),
        (b"Connection: x-telemetry-project", b"X-Telemetry-Project: p"), (b"HTTP2-Settings: AAMA",),
    ]  # fmt: skip
    for group in fields:
        yield Case("hop-by-hop", shown(b", ".join(group), 80), get(LIST, *group))


def _upgrades() -> Iterator[Case]:
    ws = (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")  # fmt: skip
    h2c = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")  # fmt: skip
    switching = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    yield Case("upgrade", "h2c", get(LIST, *h2c))
    yield Case("upgrade", "h2c with a body", post(*h2c, b"Content-Length: 2", body=b"{}"))
    yield Case("upgrade", "h2c without HTTP2-Settings", get(LIST, b"Connection: Upgrade", b"Upgrade: h2c"))  # fmt: skip
    yield Case("upgrade", "h2c by websocket's side", get(LIST, b"Connection: Upgrade", b"Upgrade: websocket, h2c"))  # fmt: skip
    yield Case("upgrade", "TLS/1.0", get(LIST, b"Connection: Upgrade", b"Upgrade: TLS/1.0"))
    yield Case("upgrade", "websocket declined", get(LIST, *ws))
    yield Case("upgrade", "websocket declined with 426", get(LIST, *ws), b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")  # fmt: skip
    yield Case("upgrade", "websocket accepted and closed", get(LIST, *ws), switching, closes=True)
    yield Case("upgrade", "websocket in a POST", post(*ws, b"Content-Length: 2", body=b"{}"))
    yield Case("upgrade", "websocket without Connection", get(LIST, ws[0], *ws[2:]))
    yield Case("upgrade", "websocket in HTTP/1.0", get(LIST, *ws, version=b"HTTP/1.0"))
    yield Case("upgrade", "101 unasked", get(LIST), switching, closes=True)
    yield Case("upgrade", "101 for h2c", get(LIST, *h2c), switching.replace(b"websocket", b"h2c"), closes=True)  # fmt: skip
    continues = b"HTTP/1.1 100 Continue\r\n\r\n" + OK
    for value in (b"100-continue", b"100-Continue", b"100-continue, x", b"200-ok", b""):
        raw = post(b"Expect: " + value, b"Content-Length: 2", body=b"{}")
        yield Case("expect", shown(value) or "empty", raw)
    yield Case("expect", "and 100 is given", post(b"Expect: 100-continue", b"Content-Length: 2", body=b"{}"), continues)  # fmt: skip
    yield Case("expect", "without a body", get(LIST, b"Expect: 100-continue"))
    yield Case("expect", "in HTTP/1.0", post(b"Expect: 100-continue", b"Content-Length: 2", body=b"{}", version=b"HTTP/1.0"))  # fmt: skip
    yield Case("expect", "chunked", post(b"Expect: 100-continue", b"Transfer-Encoding: chunked", body=_BODY))  # fmt: skip


def _pipelines() -> Iterator[Case]:
    one, two = get(b"/fake/one"), get(b"/fake/two")
    sent = post(b"Content-Length: 2", body=b"{}")
    rows = [
        ("two", one + two),
        ("five", one + two + one + two + one),
        ("POST then GET", sent + one),
        ("chunked then GET", post(b"Transfer-Encoding: chunked", body=_BODY) + one),
        ("HEAD then GET", get(b"/fake/one", method=b"HEAD") + two),
        ("empty lines between", one + b"\r\n\r\n" + two),
        ("bare LF between", one + b"\n" + two),
        ("a byte between", one + b"x" + two),
        ("second malformed", one + b"GET /fake/two HTTP/1.1\r\nHost x\r\n\r\n"),
        ("second ambiguous", one + post(b"Content-Length: 1", b"Content-Length: 2", body=b"{}")),
        ("second absolute", one + get(b"http://evil.test/")),
        ("behind Connection: close", get(b"/fake/one", b"Connection: close") + two),
        ("behind HTTP/1.0", get(b"/fake/one", version=b"HTTP/1.0") + two),
        ("excess body", post(b"Content-Length: 2", body=b"{}{}")),
        ("CRLF behind the body", post(b"Content-Length: 2", body=b"{}\r\n") + one),
        ("request as a GET's body", get(LIST, b"Content-Length: %d" % len(two)) + two),
    ]
    for name, raw in rows:
        yield Case("pipeline", name, raw)


def _answers() -> Iterator[Case]:
    def head(*fields: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
        return lines(status, *fields)

    chunked = b"Transfer-Encoding: chunked"
    whole: list[tuple[str, bytes]] = [
        ("chunked", head(chunked) + b"2\r\n{}\r\n0\r\n\r\n"),
        ("chunked with extensions", head(chunked) + b"2;a=b\r\n{}\r\n0\r\n\r\n"),
        ("chunked with trailers", head(chunked, b"Trailer: X-T") + b"2\r\n{}\r\n0\r\nX-T: 1\r\n\r\n"),
        ("Chunked, capital", head(b"Transfer-Encoding: Chunked") + b"2\r\n{}\r\n0\r\n\r\n"),
        ("chunked with LF lines", head(chunked) + b"2\n{}\n0\n\n"),
        ("chunk size with spaces", head(chunked) + b"2  \r\n{}\r\n0\r\n\r\n"),
        ("empty chunked", head(chunked) + b"0\r\n\r\n"),
        ("length and chunked", head(b"Content-Length: 2", chunked) + b"2\r\n{}\r\n0\r\n\r\n"),
        ("length twice the same", head(b"Content-Length: 2", b"Content-Length: 2") + b"{}"),
        ("length twice", head(b"Content-Length: 2", b"Content-Length: 1") + b"{}"),
        ("length 2, 2", head(b"Content-Length: 2, 2") + b"{}"),
        ("length +2", head(b"Content-Length: +2") + b"{}"),
        ("gzip, chunked", head(b"Transfer-Encoding: gzip, chunked") + b"2\r\n{}\r\n0\r\n\r\n"),
        ("chunked twice", head(chunked, chunked) + b"2\r\n{}\r\n0\r\n\r\n"),
        ("bare LF lines", head(b"Content-Length: 2").replace(b"\r\n", b"\n") + b"{}"),
        ("folded field", head(b"X-A: 1\r\n 2", b"Content-Length: 2") + b"{}"),
        ("space before the colon", head(b"X-A : 1", b"Content-Length: 2") + b"{}"),
        ("field without a colon", head(b"X-A", b"Content-Length: 2") + b"{}"),
        ("NUL in a field", head(b"X-A: a\x00b", b"Content-Length: 2") + b"{}"),
        ("control byte in a field", head(b"X-A: a\x01b", b"Content-Length: 2") + b"{}"),
        ("bytes over 127 in a field", head(b"X-A: \xe9\xff", b"Content-Length: 2") + b"{}"),
        ("empty reason", head(b"Content-Length: 2", status=b"HTTP/1.1 200 ") + b"{}"),
        ("no reason", head(b"Content-Length: 2", status=b"HTTP/1.1 200") + b"{}"),
        ("reason in UTF-8", head(b"Content-Length: 2", status=b"HTTP/1.1 200 \xc3\xa9") + b"{}"),
        ("status 299", head(b"Content-Length: 2", status=b"HTTP/1.1 299 Odd") + b"{}"),
        ("status 599", head(b"Content-Length: 2", status=b"HTTP/1.1 599 Odd") + b"{}"),
        ("status 999", head(b"Content-Length: 2", status=b"HTTP/1.1 999 Odd") + b"{}"),
        ("status 99", head(b"Content-Length: 2", status=b"HTTP/1.1 99 Odd") + b"{}"),
        ("status 20", head(b"Content-Length: 2", status=b"HTTP/1.1 20 Odd") + b"{}"),
        ("HTTP/1.0 with a length", head(b"Content-Length: 2", status=b"HTTP/1.0 200 OK") + b"{}"),
        ("HTTP/2 status line", head(b"Content-Length: 2", status=b"HTTP/2 200 OK") + b"{}"),
        ("ICY 200 OK", head(b"Content-Length: 2", status=b"ICY 200 OK") + b"{}"),
        ("no HTTP at all", b"hello\r\n\r\n"),
        ("redirect 301", head(b"Location: http://127.0.0.1:1/", b"Content-Length: 0", status=b"HTTP/1.1 301 M")),
        ("redirect 307", head(b"Location: http://127.0.0.1:1/", b"Content-Length: 0", status=b"HTTP/1.1 307 T")),
        ("401 with challenges", head(b"WWW-Authenticate: Basic", b"WWW-Authenticate: Bearer", b"Content-Length: 0", status=b"HTTP/1.1 401 U")),
        ("407", head(b"Proxy-Authenticate: Basic", b"Content-Length: 0", status=b"HTTP/1.1 407 P")),
        ("429 with Retry-After", head(b"Retry-After: 1", b"Content-Length: 0", status=b"HTTP/1.1 429 T")),
        ("two cookies", head(b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"Content-Length: 2") + b"{}"),
        ("Server and Date", head(b"Server: s", b"Date: d", b"Content-Length: 2") + b"{}"),
        ("two Content-Types", head(b"Content-Type: a/b", b"Content-Type: c/d", b"Content-Length: 2") + b"{}"),
        ("wrong Content-Encoding", head(b"Content-Encoding: gzip", b"Content-Length: 2") + b"{}"),
        ("Connection names a field", head(b"Connection: X-A", b"X-A: 1", b"Content-Length: 2") + b"{}"),
        ("Keep-Alive", head(b"Keep-Alive: timeout=9", b"Content-Length: 2") + b"{}"),
        ("Upgrade offered", head(b"Upgrade: h2c", b"Connection: Upgrade", b"Content-Length: 2") + b"{}"),
        ("Alt-Svc", head(b'Alt-Svc: h3=":443"', b"Content-Length: 2") + b"{}"),
        ("X-Accel-Redirect", head(b"X-Accel-Redirect: /secret", b"Content-Length: 2") + b"{}"),
        ("300 fields", head(*[b"X-%d: 1" % i for i in range(300)], b"Content-Length: 2") + b"{}"),
        ("field of 9000 bytes", head(b"X-A: " + b"a" * 9_000, b"Content-Length: 2") + b"{}"),
        ("surplus behind the body", head(b"Content-Length: 2") + b"{}{}"),
        ("second answer behind the first", OK + head(b"Content-Length: 2") + b"no"),
        ("100 first", head(status=b"HTTP/1.1 100 Continue") + OK),
        ("103 with Link first", head(b"Link: </x>", status=b"HTTP/1.1 103 Early Hints") + OK),
        ("102 twice first", head(status=b"HTTP/1.1 102 P") * 2 + OK),
        ("empty line first", b"\r\n" + OK),
        ("early answer 413", head(b"Content-Length: 0", status=b"HTTP/1.1 413 T")),
    ]  # fmt: skip
    request = post(b"Content-Length: 2", body=b"{}")
    for name, answer in whole:
        yield Case("answer", name, request, answer)
    yield from _closing_answers(request)


def _closing_answers(request: bytes) -> Iterator[Case]:
    """Answers whose end, or whose lack of one, is the end of the connection."""
    rows: Iterable[tuple[str, bytes]] = [
        ("until close", b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\n{}"),
        ("until close, HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\n{}"),
        ("until close, empty", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("Connection: close", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"),
        ("cut in the head", b"HTTP/1.1 200 OK\r\nContent-Le"),
        ("cut before the head", b""),
        ("cut in a length", b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}"),
        ("cut before a length's body", b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n"),
        ("cut in a chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}"),
        ("cut between chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"),
        ("cut in the last chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"),
        ("broken chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n"),
        ("cut after a 100", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ]  # fmt: skip
    for name, answer in rows:
        yield Case("answer", name, request, answer, closes=True)


def _bodiless_answers() -> Iterator[Case]:
    length = b"HTTP/1.1 %b\r\nContent-Length: 20\r\n\r\n"
    chunked = b"HTTP/1.1 %b\r\nTransfer-Encoding: chunked\r\n\r\n"
    head = get(LIST, method=b"HEAD")
    rows = [
        ("HEAD with a length", head, length % b"200 OK"),
        ("HEAD with chunked", head, chunked % b"200 OK"),
        ("HEAD without framing", head, b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n"),
        ("HEAD answered by 404", head, length % b"404 Not Found"),
        ("204", get(LIST), b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("204 with length 0", get(LIST), b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
        ("204 with a length", get(LIST), length % b"204 No Content"),
        ("204 with chunked", get(LIST), chunked % b"204 No Content"),
        ("304", get(LIST), b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n'),
        ("304 with a length", get(LIST), length % b"304 Not Modified"),
        ("304 with chunked", get(LIST), chunked % b"304 Not Modified"),
        (
            "205 with length 0",
            get(LIST),
            b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
        ),
    ]
    for name, request, answer in rows:
        yield Case("no body", name, request, answer)
    for name, answer in (("204 with a body", length % b"204 No Content"), ("HEAD with a body", length % b"200 OK")):  # fmt: skip
        request = head if name.startswith("HEAD") else get(LIST)
        yield Case("no body", name, request, answer + b"x" * 20)


def _own_headers() -> Iterator[Case]:
    fields = [
        b"X-Telemetry-Project: p", b"x-telemetry-session: s", b"X-TELEMETRY-LABEL-A: b",
        b"x-telemetry-token: t", b"X-Telemetry-Unknown: u", b"x-telemetry: v", b"Helicone-Session-Id: s",
        b"x-agent-telemetry-id: 1",
    ]  # fmt: skip
    for field in fields:
        raw = post(field, b"Content-Length: 2", body=b"{}")
        yield Case("own header", shown(field), raw)
    answer = OK.replace(b"\r\n\r\n", b"\r\nx-agent-telemetry-id: other\r\n\r\n", 1)
    yield Case("own header", "an id in the answer", post(b"Content-Length: 2", body=b"{}"), answer)
