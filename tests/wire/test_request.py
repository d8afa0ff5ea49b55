"""Request: framing from bytes alone, whole, byte by byte and at random splits."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.answer import HeadLimits
from proxy.wire.faults import BodyFault
from proxy.wire.request import INVALID, TOO_LARGE, Body, RequestReader
from tests.fakes import chunked

LIMITS = HeadLimits(head_bytes_max=400, field_bytes_max=100, fields_max=8)
CHUNKED = b"Transfer-Encoding: chunked"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
WEBSOCKET = b"GET /s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def request(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    head = (b"POST /a?b=%C3%A4 HTTP/" + version, b"Host: x", *lines)
    return b"\r\n".join((*head, b"", body))


def read(pieces):
    """The reader after all pieces, and (request, body) of each request."""
    reader = RequestReader(LIMITS, lambda: None)
    requests = []
    for piece in filter(None, pieces):  # no read is empty
        reader.feed(piece)
        while reader.requests:
            requests.append((reader.requests.popleft(), bytearray()))
        for one, body in requests:
            body += one.body.read_nowait()
    return reader, requests


def splits(data, raw):
    """Whole, byte by byte, and at random places."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)))))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    return pieces, [raw], [raw[at : at + 1] for at in range(len(raw))]


PLAIN = request(b"Content-Length: 3", b"X-Empty:", b"X-Spaces: \t a b \t", body=b"abc")
EACH = [
    (PLAIN, b"abc", True),
    (request(), b"", True),
    (request(b"Content-Length: 0"), b"", True),
    (request(b"content-length: 1", b"Connection: close", body=b"a"), b"a", False),
    (request(b"Content-Length: 1", version=b"1.0", body=b"a"), b"a", False),
    (request(CHUNKED, body=chunked([b"a", b"bc"])), b"abc", True),
    (request(b"Expect: 100-continue", b"Content-Length: 1", body=b"a"), b"a", True),
    (request(H2C.strip(), b"Content-Length: 4", body=b"body"), b"body", True),
    (request(H2C.strip(), b"Content-Length: 0"), b"", True),
    (request(H2C.strip(), CHUNKED, body=chunked([b"bo", b"dy"])), b"body", True),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "body", "keeps_alive"), EACH)
@given(data=st.data())
def test_a_request_is_the_same_however_it_is_split(raw, body, keeps_alive, data):
    """For every split of a request: the same head, body and end."""
    for pieces in splits(data, raw):
        reader, [(one, got)] = read(pieces)
        assert (one.method, one.target) == ("POST", b"/a?b=%C3%A4")
        assert (bytes(got), one.body.is_whole, reader.fault) == (body, True, None)
        assert one.keeps_alive == keeps_alive
        assert one.fields == read([raw])[1][0][0].fields


def test_fields_are_kept_as_they_were_sent():
    _, [(one, _)] = read([PLAIN])
    assert one.fields == (
        (b"host", b"Host", b"x"),
        (b"content-length", b"Content-Length", b"3"),
        (b"x-empty", b"X-Empty", b""),
        (b"x-spaces", b"X-Spaces", b"a b"),
    )


@given(st.data())
def test_requests_behind_one_another_are_kept_apart(data):
    """For every split: what stands behind a request is the next one, bodies included."""
    kinds = [case for case in EACH if case[2] and b"chunked" not in case[0]]
    chosen = data.draw(st.lists(st.sampled_from(kinds), min_size=2, max_size=5))
    raw = b"\r\n".join(raw for raw, *_ in chosen)  # an empty line between two is skipped
    for pieces in splits(data, raw):
        reader = RequestReader(LIMITS, lambda: None)
        requests = []
        for piece in filter(None, pieces):
            reader.feed(piece)
            while reader.behind_switch is not None:
                reader.go_on()  # as the connection does once it knows that there was no switch
            requests += reader.requests
            reader.requests.clear()
        assert [one.body.read_nowait() for one in requests] == [body for _, body, _ in chosen]
        assert all(one.body.is_whole for one in requests)
        assert reader.fault is None


def test_any_number_of_offers_may_stand_behind_one_another():
    one = request(H2C.strip(), b"Content-Length: 1", body=b"a")
    reader, requests = read([one * 2000])
    assert [bytes(body) for _, body in requests] == [b"a"] * 2000
    assert reader.fault is None


@given(st.data())
def test_what_follows_a_request_for_a_switch_waits(data):
    for pieces in splits(data, WEBSOCKET + b"\x81\x00frames" + WEBSOCKET):
        reader, [(one, body)] = read(pieces)
        assert (one.is_switching, one.body.is_whole, bytes(body)) == (True, True, b"")
        assert reader.behind_switch == b"\x81\x00frames" + WEBSOCKET
        assert reader.waiting_bytes == len(b"\x81\x00frames" + WEBSOCKET)


LAST = request(b"Connection: close", b"Content-Length: 1", body=b"a")


@pytest.mark.parametrize("behind", [b"\x00", request(), b"GET /", b"x" * 1000])
@given(data=st.data())
def test_what_follows_the_last_request_is_dropped(behind, data):
    for pieces in splits(data, LAST + behind):
        reader, requests = read(pieces)
        assert [bytes(body) for _, body in requests] == [b"a"]
        assert (reader.fault, reader.is_in_head) == (None, False)


TOO_MUCH = {
    "a field": request(b"X: " + b"a" * 100),
    "its name": request(b"X" * 101 + b": a"),
    "their number": request(*[b"X-%d: a" % n for n in range(8)]),
    "the target": b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
}
WRONG = TOO_MUCH | {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": request(b"host: x"),
    "two agents": request(b"User-Agent: a", b"User-Agent: a"),
    "both framings": request(b"Content-Length: 1", CHUNKED, body=b"0\r\n\r\n"),
    "both framings in a switch": request(H2C.strip(), b"Content-Length: 1", CHUNKED),
    "two lengths in a switch": request(H2C.strip(), b"Content-Length: 1", b"Content-Length: 2"),
    "another coding in a switch": request(H2C.strip(), b"Transfer-Encoding: gzip"),
    "a line feed": b"GET / HTTP/1.1\nHost: x\n\n",
    "no HTTP": b"\x16\x03\x01\x02\x00",
    "a control byte": request(b"X: a\x00b"),
}  # fmt: skip


@pytest.mark.parametrize("raw", WRONG.values(), ids=WRONG)
@given(data=st.data())
def test_a_wrong_request_is_none(raw, data):
    for pieces in splits(data, raw):
        reader, requests = read(pieces)
        assert requests == []
        assert reader.fault in (INVALID, TOO_LARGE)


def test_a_head_without_end_is_too_large():
    reader = RequestReader(LIMITS, lambda: None)
    for _ in range(100):
        reader.feed(b"GET /a HTTP/1.1\r\nHost: x\r\n" if not reader.is_in_head else b"A: b\r\n")
    assert reader.fault in (TOO_LARGE, INVALID)


ENDLESS = {"trailer": b"0\r\nX: ", "trailers": b"0\r\n", "size": b"", "extension": b"1;"}


@pytest.mark.parametrize("begun", ENDLESS.values(), ids=ENDLESS)
async def test_what_frames_a_body_has_an_end(begun):
    """What is read and is no body is bounded as a head is, in memory and in the time it takes."""
    reader = RequestReader(LIMITS, lambda: None)
    reader.feed(request(CHUNKED, body=b"1\r\na\r\n" + begun))
    body = reader.requests.popleft().body
    piece = {b"0\r\n": b"X: a\r\n", b"": b"0"}.get(begun, b"a")
    for _ in range(LIMITS.head_bytes_max + 1):
        reader.feed(piece)
    assert body.is_over
    assert await body.read() == b"a"
    with pytest.raises(BodyFault):
        await body.read()


def test_a_body_in_many_small_chunks_is_no_endless_framing():
    count = LIMITS.head_bytes_max
    _, [(one, body)] = read([request(CHUNKED), *[b"1\r\na\r\n"] * count, b"0\r\n\r\n"])
    assert (bytes(body), one.body.is_whole) == (b"a" * count, True)
    raw = request(CHUNKED, body=chunked([b"a"] * count))
    _, [(one, body)] = read([raw[at : at + 1] for at in range(len(raw))])
    assert (bytes(body), one.body.is_whole) == (b"a" * count, True)


@pytest.mark.parametrize(
    "broken",
    [
        request(CHUNKED, body=b"1\r\nax"),
        request(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
        request(H2C.strip(), CHUNKED, body=b"x\r\n"),
    ],
)
async def test_a_broken_body_is_told_to_whoever_reads_it(broken):
    """And to nobody where the whole packet is at hand: then there is no request."""
    head, _, body = broken.partition(b"\r\n\r\n")
    reader, requests = read([broken])
    assert (requests, reader.fault) == ([], INVALID)
    reader, requests = read([head + b"\r\n\r\n"])
    for one, _ in requests:
        reader.feed(body)
        one.body.read_nowait()
        with pytest.raises(BodyFault):
            await one.body.read()
    assert requests or reader.fault is INVALID


async def test_a_reader_waits_for_its_body():
    body = Body(lambda: None)
    reading = asyncio.create_task(body.read())
    await asyncio.sleep(0)
    assert not reading.done()
    body.feed(b"a")
    body.feed(b"b")
    assert (await reading, body.size) == (b"ab", 0)
    body.feed_end()
    assert await body.read() == b""
