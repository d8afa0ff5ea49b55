"""Relay: bytes pass unchanged and at once; every end of a call is told and recorded truly."""

import asyncio
import gzip
from contextlib import asynccontextmanager
from hashlib import sha256

import pytest

from proxy.exchange import Outcome
from tests.fakes import MemorySink, Peer, answering, chunked, connect, post, whole
from tests.wire.gateways import CHAT, stand

GZIPPED = gzip.compress(b"abc", mtime=0)  # the same in every worker that collects the tests
ODD_HEAD = (
    b"HTTP/1.1 299 Very \xe9 Fine\r\n"
    b"X-B: 1\r\nx-b: 2\r\nX-B: 1\r\nSET-cookie: a=1\r\nset-cookie: b=2\r\n"
    b"X-Bytes: \xff\xfe \xe9\r\nX-Empty: \r\nContent-Type: x/y\r\n"
)


async def test_an_answers_head_passes_as_bytes():
    async with stand(answering(ODD_HEAD + b"Content-Length: 2\r\n\r\n!!")) as s:
        await s.agent.send(post(b"/fake/v1/files"))
        raw = await s.agent.reader.readuntil(b"!!")
    assert raw == ODD_HEAD + b"Content-Length: 2\r\n\r\n!!"


async def test_a_recorded_answer_gains_its_rows_id_and_nothing_else():
    async with stand(answering(ODD_HEAD + b"Content-Length: 2\r\n\r\n!!")) as s:
        await s.agent.send(post(CHAT))
        raw = await s.agent.reader.readuntil(b"!!")
        id_line = b"x-agent-telemetry-id: %b\r\n" % str(s.sink.only.start.id).encode()
    assert raw == ODD_HEAD + b"Content-Length: 2\r\n" + id_line + b"\r\n!!"


async def test_the_id_header_can_be_switched_off():
    async with stand(answering(whole(b"ok")), gateway={"id_header": False}) as s:
        await s.agent.send(post(CHAT))
        answer = await s.agent.message()
    assert answer.get(b"x-agent-telemetry-id") is None
    assert len(s.sink.ended) == 1


async def test_a_request_passes_as_bytes():
    seen = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.reader.readuntil(b"\r\n\r\n") + await peer.reader.readexactly(5))
        await peer.send(whole(b""))

    head = (
        b"X-B: 1\r\nx-b: 2\r\nUser-AGENT: \xff\r\nAccept-Encoding: br;q=1\r\nContent-Length: 5\r\n"
    )
    async with stand(script) as s:
        await s.agent.send(
            b"PATCH /p/shop/fake//a/%2F/../%7e?x=%20&y HTTP/1.1\r\nHOST: gateway\r\n"
            b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\n"
            b"X-Telemetry-Session: s\r\n" + head + b"\r\n\x00\xff\r\n\x80"
        )
        await s.agent.message()
        host = b"HOST: 127.0.0.1:%d\r\n" % s.upstream.port
    start = b"PATCH //a/%2F/../%7e?x=%20&y HTTP/1.1\r\n"
    assert seen == [start + host + head + b"\r\n\x00\xff\r\n\x80"]


async def test_the_exchange_is_recorded_whole():
    async with stand(answering(whole(b"answer", b"X-Request-Id: r-1"))) as s:
        await s.agent.send(post(b"/p/shop" + CHAT + b"?key=0123456789abcdefgh", b"question"))
        await s.agent.message()
        exchange = s.sink.only
        assert s.gateway.stats.recorded == 1
    assert exchange.start.upstream == "fake"
    assert (exchange.start.dialect, exchange.start.endpoint) == ("openai", "chat.completions")
    assert exchange.start.target == "/v1/chat/completions?key=[REDACTED]"
    assert exchange.start.labels.project == "shop"
    assert (exchange.request, exchange.response_body) == (b"question", b"answer")
    assert exchange.head.status == 200
    assert exchange.response_header("x-request-id") == "r-1"
    assert exchange.end.outcome is Outcome.COMPLETE
    assert exchange.end.request_complete
    assert exchange.response_sha256 == sha256(b"answer").hexdigest()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (whole(b"\x00\xff\r\n0\r\n\r\n"), b"\x00\xff\r\n0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([b"a", b"bc"]), b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n" + chunked([]), b""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n",
         b"abc"),
        (whole(GZIPPED, b"Content-Encoding: gzip"), GZIPPED),
        (whole(b"not gzip", b"Content-Encoding: gzip"), b"not gzip"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_bytewise", [False, True])
async def test_a_framed_body_passes_whole_however_it_arrives(answer, body, is_bytewise):
    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.message()
            await (peer.send_bytewise(answer) if is_bytewise else peer.send(answer))

    async with stand(script) as s:
        for count in (1, 2):  # on the same connections: neither side lost its place
            await s.agent.send(post(CHAT))
            assert (await s.agent.message()).body == body
            assert len(s.sink.ended) == count
        assert s.upstream.connections == 1
    for exchange in s.sink.ended:
        assert exchange.response_body == body
        assert exchange.end.outcome is Outcome.COMPLETE


async def test_a_body_until_close_becomes_one_with_an_end():
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\nab", b"cd")
        peer.close()

    async with stand(script) as s:
        await s.agent.send(post(CHAT))
        answer = await s.agent.message()
        assert answer.get(b"transfer-encoding") == b"chunked"
        assert answer.body == b"abcd"
        await s.agent.send(post(CHAT))  # the agent's connection goes on
        assert (await s.agent.message()).body == b"abcd"
    assert [e.end.outcome for e in s.sink.ended] == [Outcome.COMPLETE] * 2


async def test_an_http_1_0_agent_gets_a_body_until_close():
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([b"ab", b"c"])
    async with stand(answering(chunks)) as s:
        await s.agent.send(post(b"/fake/x", version=b"1.0"))
        assert await s.agent.rest() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_end_with_their_head(method, answer):
    async with stand(answering(answer)) as s:
        for _ in range(2):
            await s.agent.send(method + b" /fake/x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await s.agent.reader.readuntil(b"\r\n\r\n") == answer
        assert s.upstream.connections == 1


async def test_events_arrive_as_they_are_sent():
    signs = asyncio.Queue()

    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in (b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"):
            await signs.get()  # the agent has the one before
            await peer.send(b"%x\r\n%b\r\n" % (len(event), event))
        await signs.get()
        await peer.send(b"0\r\n\r\n")

    async with stand(script) as s:
        await s.agent.send(post(CHAT))
        await s.agent.head()
        for event in (b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"):
            signs.put_nowait(None)
            assert await s.agent.chunk() == event
            # What the agent has, the spool has.
            assert s.sink.only.response[-1].data == event
        signs.put_nowait(None)
        assert await s.agent.chunk() == b""
        assert s.sink.only.end.outcome is Outcome.COMPLETE
        assert len(s.sink.only.response) == 3


async def test_a_request_body_streams_up_as_it_arrives():
    got = asyncio.Queue()

    async def script(peer: Peer) -> None:
        head = await peer.head()
        assert head.all(b"transfer-encoding") == [b"chunked"]
        while piece := await peer.chunk():
            got.put_nowait(piece)
        await peer.send(whole(b"thanks"))

    async with stand(script) as s:
        await s.agent.send(
            b"POST " + CHAT + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for piece in (b"one", b"two"):
            await s.agent.send(b"3\r\n" + piece + b"\r\n")
            assert await asyncio.wait_for(got.get(), 10) == piece
            assert s.sink.only.request.endswith(piece)
        await s.agent.send(b"0\r\n\r\n")
        assert (await s.agent.message()).body == b"thanks"
    assert s.sink.only.request == b"onetwo"
    assert s.sink.only.end.request_complete


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(b"200 OK", "complete"), (b"429 Slow Down", "upstream_error"), (b"500 Oh", "upstream_error")],
)
async def test_the_status_decides_the_outcome_of_a_whole_answer(status, outcome):
    async with stand(answering(whole(b"{}", status=status))) as s:
        await s.agent.send(post(CHAT))
        answer = await s.agent.message()
    assert answer.first_line == b"HTTP/1.1 " + status
    assert s.sink.only.end.outcome == outcome


CUT = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nabc",
    b"HTTP/1.1 200 OK\r\n\r\nabc",
]
# A body without a length ends where its connection is closed.
HOW = [(start, how) for start in CUT for how in ("close", "reset")]
HOW.remove((CUT[3], "close"))


@asynccontextmanager
async def cut(start, how, request):
    """The request was sent, what came of its answer is recorded, and no more comes."""
    released = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(start)
        await released.wait()
        getattr(peer, how)()

    async with stand(script) as s:
        await s.agent.send(request)
        await s.sink.until(lambda: s.sink.order[-1:] == ["response"])
        released.set()
        yield s


@pytest.mark.parametrize(("start", "how"), HOW)
async def test_an_answer_cut_short_never_looks_whole(start, how):
    async with cut(start, how, post(CHAT)) as s:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await s.agent.message()
        await s.sink.until_ended()
    assert s.sink.only.end.outcome is Outcome.UPSTREAM_RESET
    assert "closed the connection" in s.sink.only.end.error
    assert s.sink.only.response_body == b"abc"


@pytest.mark.parametrize(("start", "how"), [each for each in HOW if each[0] is not CUT[0]])
async def test_an_agent_that_reads_until_close_is_reset_by_a_cut_answer(start, how):
    """An HTTP/1.0 agent, which many fronts are, has no other way to tell the end."""
    async with cut(start, how, post(CHAT, version=b"1.0")) as s:
        with pytest.raises(ConnectionResetError):
            await s.agent.rest()


@pytest.mark.parametrize("at", [0, 1, 9, 16, 30, 43])
async def test_an_answer_cut_in_its_head_is_a_bad_gateway(at):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"

    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(head[:at])
        peer.close()

    async with stand(script, {"dialect": "anthropic"}) as s:
        await s.agent.send(post(b"/fake/v1/messages"))
        if at < 38:
            answer = await s.agent.message()
            assert answer.status == 502
            assert b'"type":"error"' in answer.body
            assert answer.get(b"x-agent-telemetry-id") == str(s.sink.only.start.id).encode()
            assert s.sink.only.head.status == 502
            assert s.sink.only.response_body == answer.body
        else:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await s.agent.message()
        await s.sink.until_ended()
    assert s.sink.only.end.outcome is Outcome.UPSTREAM_RESET


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: \x00\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 9000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 20 + b"Content-Length: 0\r\n\r\n",
    ],
)
async def test_an_answer_that_cannot_be_framed_safely_is_a_bad_gateway(answer):
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(answer)
        await peer.until_gone()

    limits = {"max_header_bytes": 8192, "max_headers": 16}
    async with stand(script, gateway=limits) as s:
        await s.agent.send(post(CHAT))
        assert (await s.agent.message()).status == 502
    assert s.sink.only.end.outcome is Outcome.UPSTREAM_RESET


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        (b"X-Long: " + b"x" * 9000 + b"\r\n", b"max_header_bytes"),
        (b"X-A: 1\r\n" * 20, b"max_headers"),
    ],
)
async def test_an_answer_whose_head_is_too_large_names_the_limit(fields, limit):
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 0\r\n\r\n")
        await peer.until_gone()

    limits = {"max_header_bytes": 8192, "max_headers": 16}
    async with stand(script, gateway=limits) as s:
        await s.agent.send(post(CHAT))
        answer = await s.agent.message()
    assert (answer.status, b"gateway." + limit + b" " in answer.body) == (502, True)
    assert b"not valid" not in answer.body


async def test_a_head_without_end_is_cut_at_its_limit():
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await peer.send(b"X: " + b"x" * 8000 + b"\r\n")

    async with stand(script, gateway={"max_header_bytes": 8192}) as s:
        await s.agent.send(post(CHAT))
        answer = await s.agent.message()
    assert (answer.status, b"too large a head" in answer.body) == (502, True)


async def test_a_silent_upstream_times_out_before_its_answer():
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.until_gone()

    async with stand(script, gateway={"idle_timeout_s": 0.05}) as s:
        await s.agent.send(post(CHAT))
        answer = await s.agent.message()
    assert answer.status == 504
    assert s.sink.only.end.outcome is Outcome.UPSTREAM_TIMEOUT


async def test_a_stream_that_falls_silent_is_cut():
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await peer.until_gone()

    async with stand(script, gateway={"idle_timeout_s": 0.05}) as s:
        await s.agent.send(post(CHAT))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await s.agent.message()
    assert s.sink.only.end.outcome is Outcome.UPSTREAM_TIMEOUT
    assert s.sink.only.response_body == b"abc"


async def test_an_agent_that_stops_sending_its_request_is_told():
    async def script(peer: Peer) -> None:
        await peer.until_gone()

    async with stand(script, gateway={"idle_timeout_s": 0.05}) as s:
        await s.agent.send(post(CHAT, b"x" * 10)[:-5])
        assert (await s.agent.message()).status == 408
    end = s.sink.only.end
    assert (end.outcome, end.request_complete) == (Outcome.CLIENT_DISCONNECTED, False)
    assert s.sink.only.request == b"x" * 5


async def test_an_agent_that_stops_reading_is_cut():
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await peer.send(b"x" * 65536)

    async with stand(script, gateway={"idle_timeout_s": 0.05}) as s:
        s.agent.writer.transport.pause_reading()
        await s.agent.send(post(CHAT))
        await s.sink.until_ended()
    assert s.sink.only.end.outcome is Outcome.CLIENT_DISCONNECTED
    assert s.sink.only.end.error == "the agent stopped reading the answer"


async def test_a_broken_request_body_is_a_bad_request():
    async def script(peer: Peer) -> None:
        await peer.until_gone()

    async with stand(script) as s:
        await s.agent.send(
            b"POST " + CHAT + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await s.agent.send(b"3\r\nabc\r\n")
        await s.sink.until(lambda: s.sink.order == ["start", "request"])
        await s.agent.send(b"zz\r\n")
        assert (await s.agent.head()).status == 400
        await s.sink.until_ended()
    assert s.sink.only.end.outcome is Outcome.CLIENT_DISCONNECTED
    assert not s.sink.only.end.request_complete


@pytest.mark.parametrize("is_quiet", [True, False])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_agent_that_leaves_ends_the_upstreams_call(is_quiet, how):
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        if is_quiet:
            await peer.until_gone()
        while True:
            await peer.send(b"3\r\nabc\r\n")
            await asyncio.sleep(0)

    async with stand(script) as s:
        await s.agent.send(post(CHAT))
        await s.agent.head()
        assert (await s.agent.chunk()).startswith(b"abc")
        getattr(s.agent, how)()
        await s.upstream.until_left()
        await s.sink.until_ended()
    assert s.sink.only.end.outcome is Outcome.CLIENT_DISCONNECTED
    assert s.sink.only.response_body.startswith(b"abc")


async def test_an_agent_that_leaves_before_the_answer_ends_the_upstreams_call():
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.message()
        asked.set()
        await peer.until_gone()

    async with stand(script) as s:
        await s.agent.send(post(CHAT))
        await asyncio.wait_for(asked.wait(), 10)
        assert s.sink.order == ["start", "request"]
        s.agent.close()
        await s.upstream.until_left()
        await s.sink.until_ended()
    assert s.sink.only.end.outcome is Outcome.CLIENT_DISCONNECTED
    assert s.sink.only.head is None


async def test_an_answer_that_comes_before_the_request_is_whole_is_relayed():
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(whole(b"too large", status=b"413 Content Too Large"))
        peer.close()

    async with stand(script) as s:
        await s.agent.send(post(CHAT, b"x" * 100_000)[:-50_000])
        answer = await s.agent.message()
        assert (answer.status, answer.body) == (413, b"too large")
        assert answer.get(b"connection") == b"close"
        await s.sink.until_ended()
    end = s.sink.only.end
    assert (end.outcome, end.request_complete) == (Outcome.UPSTREAM_ERROR, False)


async def test_a_whole_answer_to_an_unfinished_request_closes_both_connections():
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(whole(b"enough"))
        await peer.until_gone()

    async with stand(script) as s:
        await s.agent.send(post(CHAT, b"x" * 10)[:-5])
        assert (await s.agent.message()).body == b"enough"
        await s.upstream.until_left()
        await s.agent.send(b"x" * 5)
        assert await s.agent.rest() == b""


async def test_continue_is_the_upstreams_to_give():
    async def script(peer: Peer) -> None:
        head = await peer.head()
        assert head.get(b"expect") == b"100-continue"
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.reader.readexactly(4) == b"body"
        await peer.send(whole(b"ok"))

    async with stand(script) as s:
        await s.agent.send(post(CHAT, b"body", b"Expect: 100-continue")[:-4])
        assert (await s.agent.head()).status == 100
        await s.agent.send(b"body")
        assert (await s.agent.message()).body == b"ok"
    assert s.sink.only.request == b"body"
    assert s.sink.only.head.status == 200


async def test_continue_comes_from_the_gateway_where_the_upstream_gives_none(monkeypatch):
    monkeypatch.setattr("proxy.wire.call.CONTINUE_AFTER_S", 0.01)
    async with stand(answering(whole(b"ok"))) as s:
        await s.agent.send(post(CHAT, b"body", b"Expect: 100-continue")[:-4])
        assert (await s.agent.head()).first_line == b"HTTP/1.1 100 Continue"
        await s.agent.send(b"body")
        assert (await s.agent.message()).body == b"ok"


async def test_an_upstream_may_refuse_instead_of_giving_continue():
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(whole(b"no", status=b"401 Unauthorized"))
        await peer.until_gone()

    async with stand(script) as s:
        await s.agent.send(post(CHAT, b"body", b"Expect: 100-continue")[:-4])
        assert (await s.agent.message()).status == 401


async def test_other_interim_answers_pass():
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with stand(answering(interim + interim + whole(b"ok"))) as s:
        await s.agent.send(post(CHAT))
        assert await s.agent.reader.readexactly(2 * len(interim)) == 2 * interim
        assert (await s.agent.message()).body == b"ok"
        await s.agent.send(post(CHAT, version=b"1.0"))  # which knows none
        assert (await s.agent.message()).status == 200


async def test_an_answer_recorded_behind_us_is_marked_and_keeps_its_id():
    async with stand(answering(whole(b"ok", b"X-Agent-Telemetry-Id: theirs"))) as s:
        await s.agent.send(post(CHAT))
        answer = await s.agent.message()
    assert answer.all(b"x-agent-telemetry-id") == [b"theirs"]
    assert s.sink.only.end.is_recorded_elsewhere


@pytest.mark.parametrize(
    ("request_", "sections"),
    [
        (post(b"/fake/v1/embeddings"), {}),
        (b"GET /fake/v1/models HTTP/1.1\r\nHost: x\r\n\r\n", {}),
        (post(CHAT, b"{}", b"x-telemetry-record: off"), {}),
        (post(CHAT), {"capture": {"enabled": False}}),
    ],
)
async def test_what_is_not_recorded_is_forwarded_and_counted(request_, sections):
    async with stand(answering(whole(b"ok")), **sections) as s:
        await s.agent.send(request_)
        answer = await s.agent.message()
        assert (s.gateway.stats.passthrough, s.gateway.stats.recorded) == (1, 0)
    assert (answer.body, answer.get(b"x-agent-telemetry-id")) == (b"ok", None)
    assert s.sink.exchanges == {}


@pytest.mark.parametrize("framing", [b"Content-Length: 2", b"Transfer-Encoding: chunked"])
async def test_the_end_of_a_call_waits_for_the_disk_where_that_is_asked_for(framing):
    body = b"ok" if b"Length" in framing else b"2\r\nok\r\n0\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body
    sink = MemorySink()
    sink.waits_for_disk = True
    async with stand(answering(answer), sink=sink) as s:
        await s.agent.send(post(CHAT))
        await sink.until_ended()
        reading = asyncio.create_task(s.agent.message())
        await asyncio.wait({reading}, timeout=0.05)
        assert not reading.done()
        sink.disk.set()
        assert (await reading).body == b"ok"


@pytest.mark.parametrize("when_full", ["forward", "refuse"])
async def test_a_retrieved_response_is_recorded_and_has_no_row_of_its_own(when_full):
    request = b"GET /fake/v1/responses/resp_1 HTTP/1.1\r\nHost: x\r\n\r\n"
    async with stand(answering(whole(b"{}")), spool={"when_full": when_full}) as s:
        s.sink.is_full = True  # a full spool refuses model calls only
        await s.agent.send(request)
        answer = await s.agent.message()
    assert (answer.status, answer.get(b"x-agent-telemetry-id")) == (200, None)
    assert s.sink.only.start.endpoint == "responses.retrieve"
    assert s.sink.only.response_body == b"{}"


async def test_health_is_told_without_a_token_and_is_no_refusal():
    async with stand(answering(whole(b"ok")), gateway={"client_tokens": ["secret-token-1"]}) as s:
        await s.agent.send(b"GET /telemetry/v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await s.agent.message()
        assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
        assert (s.gateway.stats.refused, s.gateway.stats.passthrough) == (0, 0)


@pytest.mark.parametrize("fault", ["start", "request", "head", "response", "end", "refused"])
async def test_no_fault_of_recording_reaches_the_call(fault):
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([b"a", b"b"])
    async with stand(answering(body)) as s:
        if fault == "refused":
            s.sink.accepts = False
        s.sink.raises_in = fault
        for _ in range(2):
            await s.agent.send(post(CHAT))
            answer = await s.agent.message()
            assert answer.body == b"ab"
            has_id = answer.get(b"x-agent-telemetry-id") is not None
            assert has_id == (fault not in ("start", "request", "refused"))
        assert s.gateway.stats.tap_faults == (0 if fault == "refused" else 2)


async def test_a_full_spool_refuses_only_where_it_is_told_to():
    async with stand(answering(whole(b"ok")), spool={"when_full": "refuse"}) as s:
        s.sink.is_full = True
        await s.agent.send(post(b"/fake/v1/embeddings"))
        assert (await s.agent.message()).body == b"ok"
        await s.agent.send(post(CHAT))
        assert (await s.agent.message()).status == 503
        assert s.upstream.connections == 1
    async with stand(answering(whole(b"ok"))) as s:
        s.sink.is_full = True
        await s.agent.send(post(CHAT))
        assert (await s.agent.message()).body == b"ok"


async def test_the_configured_key_goes_up_and_the_agents_does_not():
    seen = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.message())
        await peer.send(whole(b"ok"))

    key = "sk-configured-0123456789"
    async with stand(script, {"api_key": key}) as s:
        raw = (b"Authorization: Bearer sk-agents-0123456789", b"X-Goog-Api-Key: abc")
        await s.agent.send(post(CHAT + b"?key=abc", b"{}", *raw, host=b"localhost"))
        await s.agent.message()
    assert seen[0].all(b"authorization") == [b"Bearer " + key.encode()]
    assert seen[0].get(b"x-goog-api-key") is None
    assert seen[0].first_line == b"POST /v1/chat/completions HTTP/1.1"
    assert {secret.length for secret in s.sink.only.start.secrets} == {len(key), 20}


async def test_no_credential_reaches_the_spool():
    secrets = [b"sk-header-0123456789", b"query-key-0123456789", b"path-token-0123456789"]
    gateway = {"client_tokens": [secrets[2].decode()]}
    async with stand(answering(whole(b"ok", b"X-Request-Id: " + secrets[0])), gateway=gateway) as s:
        raw = (b"Authorization: Bearer " + secrets[0], b"User-Agent: a " + secrets[0])
        target = b"/t/" + secrets[2] + CHAT + b"?access_token=" + secrets[1]
        await s.agent.send(post(target, b"{}", *raw))
        await s.agent.message()
    kept = s.sink.only.to_bytes()
    assert [secret for secret in secrets if secret in kept] == []
    assert {secret.length for secret in s.sink.only.start.secrets} == {20, 21}


async def test_pipelined_requests_are_answered_in_turn():
    async with stand(answering(whole(b"1"), whole(b"2"), whole(b"3"))) as s:
        await s.agent.send(post(CHAT) * 3)
        assert [(await s.agent.message()).body for _ in range(3)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("is_pipelined", [True, False])
async def test_a_trailer_never_becomes_a_header_of_the_next_request(is_pipelined):
    seen = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.message())
            await peer.send(whole(b"ok"))

    head = b"POST /fake/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    request = head + b"2\r\n{}\r\n0\r\nX-A: 1\r\nAuthorization: Bearer stolen\r\n\r\n"
    async with stand(script) as s:
        await s.agent.send(*([request + post(CHAT)] if is_pipelined else [request]))
        answer = await s.agent.message()
        assert (answer.body, answer.get(b"connection")) == (b"ok", b"close")
        await s.agent.until_gone()
    assert [message.get(b"authorization") for message in seen] == [None]


async def test_an_agent_that_closes_after_this_call_is_told_so():
    async with stand(answering(whole(b"ok"))) as s:
        await s.agent.send(post(CHAT, b"{}", b"Connection: close"))
        assert (await s.agent.head()).get(b"connection") == b"close"
        assert await s.agent.rest() == b"ok"


async def test_two_agents_do_not_wait_for_each_other():
    async def script(peer: Peer) -> None:
        if (await peer.message()).body == b"slow":
            await peer.until_gone()
        await peer.send(whole(b"ok"))

    async with stand(script) as s, connect(s.address) as other:
        await s.agent.send(post(CHAT, b"slow"))
        await s.sink.until(lambda: len(s.sink.exchanges) == 1)
        await other.send(post(CHAT, b"fast"))
        assert (await other.message()).body == b"ok"
        assert s.gateway.stats.active == 1
