"""Server: limits, deadlines, silence of the logs, hostile requests, and the end of the gateway."""

import asyncio
import gc
import logging
import resource
import socket
import struct
import weakref
from collections.abc import Callable
from hashlib import sha256

import pytest
import uvloop

from proxy.exchange import Exchange, Outcome
from proxy.wire.agent import HIGH_WATER_BYTES, PIPELINED_MAX, AgentConnection, AgentServer
from proxy.wire.answer import HeadLimits
from proxy.wire.request import Request
from proxy.wire.server import Gateway
from proxy.wire.unread import Unread
from tests.fakes import MemorySink, Peer, Upstream, answering, chunked, connect, post, until, whole
from tests.wire.gateways import CHAT, config_of, running, stand

CANARY = b"sk-canary-0123456789"
LONG_BYTES = 200_000  # more than an agent is sent that does not read


async def test_long_keys_targets_and_many_headers_pass():
    async with stand(answering(whole(b"ok", b"X-Long: " + b"y" * 60_000))) as s:
        raw = [b"Authorization: Bearer " + b"a" * 60_000]
        raw += [b"X-%d: 1" % number for number in range(400)]
        await s.agent.send(post(CHAT + b"?x=" + b"q" * 60_000, b"{}", *raw))
        answer = await s.agent.message()
    assert (answer.body, answer.get(b"x-long")) == (b"ok", b"y" * 60_000)


BROKEN = [
    post(b"/fake/x?key=" + CANARY + b"q" * 9000),
    post(b"/fake/x", b"{}", b"Authorization: Bearer " + CANARY + b"a" * 9000),
    post(b"/fake/x", b"{}", *[b"X-%d: %b" % (n, CANARY) for n in range(20)]),
    b"GET /fake/%b\r\n\r\n" % CANARY,
    b"%b\r\n\r\n" % CANARY,
    b"GET /fake/x HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % CANARY,
    b"GET /fake/x HTTP/1.1\r\nAuthorization: %b\r\n\r\n" % CANARY,
    b"GET /fake/x HTTP/1.1\r\nHost: x\r\nX-A: %b\x00\r\n\r\n" % CANARY,
    b"GET /fake/x HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n %b\r\n\r\n" % CANARY,
    b"GET http://[%b/ HTTP/1.1\r\nHost: x\r\n\r\n" % CANARY,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + CANARY,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + CANARY,
]


@pytest.mark.parametrize("request_", BROKEN)
async def test_nothing_of_a_broken_request_is_echoed_or_logged(request_, caplog):
    caplog.set_level(logging.DEBUG)
    limits = {"max_header_bytes": 8192, "max_headers": 16}
    async with stand(answering(whole(b"no")), gateway=limits) as s:
        await s.agent.send(request_)
        raw = await s.agent.rest()
        assert raw.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"not valid HTTP/1.1" in raw or b"request target" in raw
        assert s.upstream.connections == 0
    assert CANARY not in raw
    assert CANARY.decode() not in caplog.text
    assert CANARY[:10].decode() not in caplog.text


def smuggling(*lines: bytes, version: bytes = b"1.1", body: bytes = b"") -> bytes:
    head = (b"POST /fake/x HTTP/" + version, b"Host: x", *lines)
    return b"\r\n".join((*head, b"", body))


HOSTILE = [
    b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    b"CONNECT /fake/v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET //evil.test/x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET @evil.test/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\\evil.test/x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /fake/x#y HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    smuggling(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    smuggling(b"Content-Length: 1", b"Content-Length: 1", body=b"a"),
    smuggling(b"Content-Length: 1", b"Content-Length: 2", body=b"ab"),
    smuggling(b"Content-Length: +2", body=b"ab"),
    smuggling(b"Content-Length: 1_0", body=b"ab"),
    smuggling(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    smuggling(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    smuggling(
        b"Connection: Upgrade", b"Upgrade: h2c", b"Transfer-Encoding: gzip", body=b"0\r\n\r\n"
    ),
    smuggling(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    smuggling(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    smuggling(b"Transfer-Encoding: chunked", version=b"1.0", body=b"0\r\n\r\n"),
    smuggling(b"Connection: Authorization", b"Authorization: a", b"Content-Length: 0"),
    smuggling(b"Connection: host", b"Content-Length: 0"),
]


@pytest.mark.parametrize("request_", HOSTILE)
async def test_a_hostile_request_reaches_nobody(request_):
    async with stand(answering(whole(b"no"))) as s:
        await s.agent.send(request_)
        assert (await s.agent.head()).status == 400
        await s.agent.until_gone()
        assert s.upstream.connections == 0
    assert s.sink.exchanges == {}


@pytest.mark.parametrize(
    "raw",
    [
        (b"Host: 127.0.0.1:%d",),
        (b"X-Forwarded-Host: 127.0.0.1:%d", b"Host: x"),
        (b"Helicone-Target-URL: http://127.0.0.1:%d", b"Host: x"),
        (b"x-portkey-custom-host: http://127.0.0.1:%d", b"Host: x"),
        (b"Forwarded: host=127.0.0.1:%d", b"Host: x"),
    ],
)
async def test_no_header_chooses_where_a_request_goes(raw):
    async with Upstream(answering(whole(b"trap"))).serving() as tripwire:
        async with stand(answering(whole(b"ok"))) as s:
            lines = b"\r\n".join(line % tripwire.port if b"%d" in line else line for line in raw)
            await s.agent.send(b"GET /fake/x HTTP/1.1\r\n" + lines + b"\r\n\r\n")
            assert (await s.agent.message()).body == b"ok"
        assert tripwire.connections == 0


async def test_redirects_are_the_agents_to_follow():
    async with Upstream(answering(whole(b"trap"))).serving() as tripwire:
        where = b"Location: http://127.0.0.1:%d/" % tripwire.port
        async with stand(answering(whole(b"", where, status=b"307 Temporary Redirect"))) as s:
            await s.agent.send(post(CHAT))
            answer = await s.agent.message()
        assert (answer.status, tripwire.connections) == (307, 0)
        assert answer.get(b"location") == where.partition(b" ")[2]


async def test_an_unknown_upstream_is_a_404_in_words():
    async with stand(answering(whole(b"ok"))) as s:
        await s.agent.send(post(b"/nowhere/v1/x"))
        answer = await s.agent.message()
        assert s.gateway.stats.refused == 1
    assert (answer.status, b"known: fake" in answer.body) == (404, True)


@pytest.mark.parametrize("sent", [b"", b"GET /fake/x HT", b"GET /fake/x HTTP/1.1\r\nHost: x\r\nX"])
async def test_a_head_that_does_not_arrive_in_time_is_cut(sent):
    async with stand(answering(whole(b"ok")), gateway={"header_timeout_s": 0.05}) as s:
        await s.agent.send(sent)
        assert (await s.agent.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_second_head_that_does_not_arrive_in_time_is_cut():
    async with stand(answering(whole(b"ok")), gateway={"header_timeout_s": 0.05}) as s:
        await s.agent.send(post(CHAT))
        await s.agent.message()
        await s.agent.send(b"POST /fa")
        assert (await s.agent.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_connection_that_rests_is_closed_in_silence(monkeypatch):
    async with stand(answering(whole(b"ok"))) as s:
        for seconds in (75, 75, 0.05):  # from the end of each call
            monkeypatch.setattr("proxy.wire.agent.KEEPALIVE_S", seconds)
            await s.agent.send(post(CHAT))
            assert (await s.agent.message()).body == b"ok"
        assert await s.agent.rest() == b""


async def test_an_agent_that_still_sends_sees_the_answer_and_no_reset():
    size = 8 * 2**20
    async with stand(answering(whole(b"ok"))) as s:
        await s.agent.send(post(b"/nowhere/v1/x", b"")[:-5] + b"%d\r\n\r\n" % size)
        await s.agent.send(b"x" * size)
        assert (await s.agent.message()).status == 404
        await s.agent.until_gone()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(CHAT, b"{}", b"Connection: close"), 200),
        (post(b"/nowhere/v1/x", b"{}", b"Connection: close"), 404),
        (post(b"/nowhere/v1/x", b"x" * 1000)[:-1], 404),  # its rest is the first that follows
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
def test_what_is_sent_behind_a_last_answer_resets_nothing(request_, status, factory):
    """Whatever follows, and whenever, the agent sees the answer and then a clean end."""
    body = b"x" * LONG_BYTES if status == 200 else None

    async def answered(moment: str) -> None:
        async with stand(answering(whole(body or b""))) as s:
            s.agent.writer.transport.pause_reading()
            behind = post(CHAT, b"y" * 100_000) * 3
            await s.agent.send(request_ + behind if moment == "with it" else request_)
            (connection,) = s.gateway._server.connections
            await until(lambda: connection._is_over)
            if moment == "after it":
                await s.agent.send(*[behind] * 3)
            s.agent.writer.transport.resume_reading()
            answer = await s.agent.message()
            assert (answer.status, await s.agent.rest()) == (status, b"")
            assert body in (None, answer.body)

    for moment in ("with it", "after it"):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(answered(moment))


@pytest.mark.parametrize(
    "request_",
    [
        post(b"/nowhere/v1/x", b"123456789")[:-1],  # whose rest never comes
        post(CHAT, b"{}", b"Connection: close"),
        b"no request\r\n\r\n",
    ],
)
async def test_an_agent_that_never_ends_is_not_awaited_for_ever(request_, monkeypatch):
    monkeypatch.setattr("proxy.wire.agent.LINGER_S", 0.05)
    monkeypatch.setattr("proxy.wire.agent.LINGER_REST_S", 0.05)
    async with stand(answering(whole(b"ok"))) as s:
        await s.agent.send(request_)
        await s.agent.message()
        assert await s.agent.rest() == b""
        await until(lambda: not s.gateway.connections)


async def test_an_agent_that_resets_behind_its_last_answer_is_no_fault():
    client, faults = socket.socket(), []

    async def handle(agent: AgentConnection, request: Request) -> bool:
        agent.send(whole(b"ok"))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # with a reset
        return False

    limits = HeadLimits(head_bytes_max=9000, field_bytes_max=9000, fields_max=9)
    agents = AgentServer(handle, limits, header_timeout_s=30, idle_timeout_s=30, connections_max=1)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context["message"]))
    server = await loop.create_server(agents, "127.0.0.1", 0)
    client.connect(server.sockets[0].getsockname())
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: bool(agents.connections))
    await until(lambda: not agents.connections)
    gc.collect()
    server.close()
    assert faults == []


async def test_an_agent_that_never_reads_its_last_bytes_is_not_awaited_for_ever():
    """They are less than what holds a call up, so its call has ended."""

    async def script(peer: Peer) -> None:
        await peer.message()
        (connection,) = s.gateway._server.connections
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not connection.transport.get_write_buffer_size():
            await peer.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await asyncio.sleep(0)
        await peer.send(b"0\r\n\r\n")

    async with stand(script, gateway={"idle_timeout_s": 1}) as s:
        s.agent.writer.transport.pause_reading()
        await s.agent.send(post(CHAT, b"{}", b"Connection: close"))
        await s.sink.until_ended()
        await until(lambda: not s.gateway.connections)
    assert s.sink.only.end.outcome is Outcome.COMPLETE


async def until_it_stands(count: Callable[[], int]) -> None:
    """Wait until something has begun and moves no more, however often the loop turns."""
    before = -1
    while not count() or count() != before:
        before = count()
        for _ in range(200):
            await asyncio.sleep(0)


async def test_what_is_pipelined_waits_outside():
    """While a call is open no more is read than what came with it."""
    released, sent = asyncio.Event(), 0

    async def script(peer: Peer) -> None:
        while True:
            await peer.message()
            await released.wait()
            await peer.send(whole(b"ok"))

    async with stand(script) as s:

        async def pipeline():
            nonlocal sent
            while True:
                await s.agent.send(post(CHAT, b"x" * 60_000))
                sent += 1

        pipelining = asyncio.create_task(pipeline())
        await until_it_stands(lambda: sent)
        assert sent * 60_000 < 32 * 2**20
        assert len(s.sink.exchanges) == 1
        pipelining.cancel()
        released.set()
        assert (await s.agent.message()).body == b"ok"


async def test_what_is_pipelined_behind_a_declined_switch_is_read_on():
    """Also where more than a buffer of it waited, and it is no whole request."""
    released = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.message()
            await released.wait()
            await peer.send(whole(b"ok"))

    async with stand(script) as s:
        offer = b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        await s.agent.send(b"GET /fake/x HTTP/1.1\r\nHost: x\r\n" + offer)
        (connection,) = s.gateway._server.connections
        await s.agent.send(b"\r\n" * HIGH_WATER_BYTES)
        await until(lambda: connection._reader.waiting_bytes > HIGH_WATER_BYTES)
        released.set()
        assert (await s.agent.message()).body == b"ok"
        await s.agent.send(post(CHAT))
        assert (await s.agent.message()).body == b"ok"


@pytest.mark.parametrize(
    "behind", [b"", post(CHAT), post(CHAT, b"x" * 1000)[:-1], post(CHAT) * 2 * PIPELINED_MAX]
)
async def test_an_agent_that_leaves_is_noticed_also_where_it_pipelined(behind, monkeypatch):
    monkeypatch.setattr("proxy.wire.unread.LOOK_S", 0.01)
    began = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.message()
        began.set()
        await peer.until_gone()

    async with stand(script) as s:
        await s.agent.send(post(CHAT) + behind)
        await began.wait()
        s.agent.close()
        await s.upstream.until_left()
        await s.sink.until_ended()
    assert s.sink.only.end.outcome is Outcome.CLIENT_DISCONNECTED


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("leave", [Peer.close, Peer.reset])
def test_an_agent_that_leaves_while_its_upload_is_held_back_is_noticed(leave, factory, monkeypatch):
    """Though nothing of what it sends is read, its end neither."""
    monkeypatch.setattr("proxy.wire.unread.LOOK_S", 0.01)

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()
        await asyncio.Event().wait()

    async def left() -> Exchange:
        async with stand(script, capture={"max_body_bytes": 1024}) as s:
            await s.agent.send(post(CHAT, b"")[:-5] + b"%d\r\n\r\n" % 2**30)
            (connection,) = s.gateway._server.connections
            paused = 0  # turns of the loop in a row
            async with asyncio.timeout(10):
                while paused < 200:
                    await asyncio.sleep(0)
                    paused = paused + 1 if connection._is_reading_paused else 0
                    if not paused:
                        await s.agent.send(b"x" * 16_384)
            leave(s.agent)
            await s.sink.until_ended()
            return s.sink.only

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(left()).end.outcome is Outcome.CLIENT_DISCONNECTED


async def test_an_agent_whose_upload_is_held_back_for_long_is_left_alone(monkeypatch):
    monkeypatch.setattr("proxy.wire.unread.LOOK_S", 0.001)
    size, looks = 32 * 2**20, 0
    look = Unread._look

    def looked(watch: Unread) -> None:
        nonlocal looks
        look(watch)
        looks += 1

    monkeypatch.setattr(Unread, "_look", looked)

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()
        await until(lambda: looks >= 20)
        peer.writer.transport.resume_reading()
        await peer.reader.readexactly(size)
        await peer.send(whole(b"ok"))

    async with stand(script, capture={"enabled": False}) as s:
        await s.agent.send(post(CHAT, b"")[:-5] + b"%d\r\n\r\n" % size)
        await s.agent.send(*[b"x" * 65536] * (size // 65536))
        assert (await s.agent.message()).body == b"ok"
        # Nobody is left to look after.
        await until(lambda: s.gateway._server.unread._timer is None)


async def test_a_connection_that_is_gone_leaves_no_cycle():
    """Else what it held waits for the garbage collector, which seldom runs in a gateway."""

    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await peer.until_gone()

    sent = [b"", b"POST /fa", post(CHAT), post(CHAT) * 3, post(CHAT, b"x" * 2**20)[:-1]]
    async with stand(script) as s:
        gone = []
        for one in sent:
            async with connect(s.address) as agent:
                await agent.send(one)
                await until(lambda: s.gateway.connections == 2)
                if one.startswith(post(CHAT)):
                    await agent.head()
                gc.disable()
                gone += map(weakref.ref, s.gateway._server.connections)
            await until(lambda: s.gateway.connections == 1)
        await until(lambda: not s.gateway.stats.active)
        for _ in range(10):
            await asyncio.sleep(0)
        left = {one() for one in gone if one() is not None} - s.gateway._server.connections
        gc.enable()
    assert left == set()


async def test_a_long_call_is_no_slow_head():
    released = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.message()
        await released.wait()
        await peer.send(whole(b"ok"))

    gateway = {"header_timeout_s": 0.02}
    async with stand(script, gateway=gateway) as s:
        await s.agent.send(post(CHAT))
        async with connect(s.address) as other:
            await other.until_gone()  # its own deadline is later than that of the call's head
        released.set()
        assert (await s.agent.message()).body == b"ok"


async def test_a_head_without_end_is_cut_at_its_limit(monkeypatch):
    monkeypatch.setattr("proxy.wire.agent.LINGER_S", 0.05)
    async with stand(answering(whole(b"ok")), gateway={"max_header_bytes": 8192}) as s:
        await s.agent.send(b"GET /fake/x HTTP/1.1\r\nHost: x\r\n")

        async def drip():
            while True:
                await s.agent.send(b"X: " + b"x" * 4000 + b"\r\n")
                await asyncio.sleep(0)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(drip(), 10)


async def test_connections_beyond_the_limit_are_turned_away():
    async with stand(answering(whole(b"ok")), gateway={"max_connections": 1}) as s:
        await s.agent.send(post(CHAT))
        await s.agent.message()
        assert s.gateway.connections == 1
        async with connect(s.address) as other:
            assert (await other.message()).status == 503
        await s.agent.send(post(CHAT))
        assert (await s.agent.message()).body == b"ok"
        s.agent.close()
        await until(lambda: not s.gateway.connections)
        async with connect(s.address) as other:
            await other.send(post(CHAT))
            assert (await other.message()).body == b"ok"


async def test_a_fault_of_the_gateway_itself_is_a_500_without_details(caplog):
    async with stand(answering(whole(b"ok"))) as s:
        s.gateway._relay.plans = None
        await s.agent.send(post(CHAT, CANARY))
        answer = await s.agent.message()
    assert (answer.status, b"error inside the gateway" in answer.body) == (500, True)
    assert "AttributeError" in caplog.text
    assert CANARY.decode() not in caplog.text


async def test_a_fault_in_the_middle_of_an_answer_cuts_it(monkeypatch, caplog):
    monkeypatch.setattr("proxy.wire.passing.chunk", None)
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([CANARY])
    async with stand(answering(body)) as s:
        await s.agent.send(post(CHAT))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await s.agent.message()
        await s.sink.until_ended()
    assert s.sink.only.end.outcome is Outcome.PROXY_CRASHED
    assert "TypeError" in caplog.text
    assert CANARY.decode() not in caplog.text


# --- memory


def rss_mib():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 2**20


async def test_a_slow_agent_holds_the_upstream_back():
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while sent < 64 * 2**20:
            await peer.send(b"x" * 65536)
            sent += 65536
        peer.close()

    async with stand(script, capture={"enabled": False}) as s:
        s.agent.writer.transport.pause_reading()
        await s.agent.send(post(CHAT))
        await until_it_stands(lambda: sent)
        assert sent < 32 * 2**20
        s.agent.writer.transport.resume_reading()
        assert len((await s.agent.message()).body) == sent == 64 * 2**20


async def test_a_slow_upstream_holds_the_agent_back():
    released = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()
        await released.wait()
        peer.writer.transport.resume_reading()
        await peer.reader.readexactly(size)
        await peer.send(whole(b"ok"))

    size = 64 * 2**20
    async with stand(script, capture={"enabled": False}) as s:
        sent = 0

        async def upload():
            nonlocal sent
            await s.agent.send(post(CHAT, b"")[:-5] + b"%d\r\n\r\n" % size)
            while sent < size:
                await s.agent.send(b"x" * 65536)
                sent += 65536

        uploading = asyncio.create_task(upload())
        await until_it_stands(lambda: sent)
        assert sent < 32 * 2**20
        released.set()
        await uploading
        assert (await s.agent.message()).body == b"ok"


@pytest.mark.skipif(not socket.sys.platform.startswith("linux"), reason="reads /proc")
async def test_large_bodies_pass_in_little_memory():
    size, count, block = 20 * 2**20, 20, b"0123456789abcdef" * 4096
    digests = []

    async def script(peer: Peer) -> None:
        await peer.head()
        left, digest = size, sha256()
        while left:
            data = await peer.reader.read(65536)
            digest.update(data)
            left -= len(data)
        digests.append(digest.hexdigest())
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(size // len(block)):
            await peer.send(b"%x\r\n" % len(block), block, b"\r\n")
        await peer.send(b"0\r\n\r\n")

    async def call(address: object) -> str:
        async with connect(address) as agent:
            await agent.send(post(CHAT, b"")[:-5] + b"%d\r\n\r\n" % size)
            for _ in range(size // len(block)):
                await agent.send(block)
            await agent.head()
            digest = sha256()
            while data := await agent.chunk():
                digest.update(data)
            return digest.hexdigest()

    async with stand(script, capture={"max_body_bytes": 1024}) as s:
        before = rss_mib()
        got = await asyncio.gather(*(call(s.address) for _ in range(count)))
        # Both ends and their buffers live in this process too.
        assert rss_mib() - before < 128
    whole_digest = sha256(block * (size // len(block))).hexdigest()
    assert set(got) == set(digests) == {whole_digest}
    for exchange in s.sink.ended:
        assert exchange.end.request_bytes == exchange.end.response_bytes == size
        assert exchange.end.request_kept == exchange.end.response_kept == 1024
        assert exchange.end.response_sha256 == whole_digest


# --- start and end


async def test_a_socket_that_listens_already_is_served():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with Upstream(answering(whole(b"ok"))).serving() as upstream:
            config = config_of({"fake": {"url": f"http://127.0.0.1:{upstream.port}"}})
            gateway = Gateway(config, None)
            await gateway.start(listening)
            async with connect(listening.getsockname()) as agent:
                await agent.send(post(CHAT))
                answer = await agent.message()
            await gateway.close()
    assert (answer.body, answer.get(b"x-agent-telemetry-id")) == (b"ok", None)


async def test_a_unix_socket_is_served(tmp_path):
    path = str(tmp_path / "gateway")
    async with Upstream(answering(whole(b"ok"))).serving() as upstream:
        config = config_of(
            {"fake": {"url": f"http://127.0.0.1:{upstream.port}"}},
            gateway={"listen": f"unix:{path}"},
        )
        async with running(config, None) as gateway:
            assert gateway.addresses == [path]
            reader, writer = await asyncio.open_unix_connection(path)
            agent = Peer(reader, writer)
            await agent.send(post(CHAT))
            assert (await agent.message()).body == b"ok"
            agent.close()


async def test_a_drain_lets_calls_end_and_takes_no_more():
    released, started = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        started.set()
        await released.wait()
        await peer.send(b"1\r\nb\r\n0\r\n\r\n")

    async with stand(script, gateway={"drain_timeout_s": 30}) as s, connect(s.address) as idle:
        await s.agent.send(post(CHAT))
        await started.wait()
        address = s.address
        draining = asyncio.create_task(s.gateway.drain())
        assert await idle.rest() == b""
        with pytest.raises(ConnectionError):
            async with connect(address):
                pass
        assert not draining.done()
        released.set()
        assert (await s.agent.message()).body == b"ab"
        assert await s.agent.rest() == b""
        s.agent.close()
        await draining
    assert s.sink.only.end.outcome is Outcome.COMPLETE


async def test_an_answer_during_a_drain_says_that_the_connection_ends():
    released, started = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.message()
        started.set()
        await released.wait()
        await peer.send(whole(b"ok"))

    async with stand(script, gateway={"drain_timeout_s": 30}) as s:
        await s.agent.send(post(CHAT))
        await started.wait()
        draining = asyncio.create_task(s.gateway.drain())
        await asyncio.sleep(0)
        released.set()
        assert (await s.agent.message()).get(b"connection") == b"close"
        s.agent.close()
        await draining


async def test_a_drain_lets_an_agent_that_still_sends_see_its_answer():
    size = 2**20
    async with stand(answering(whole(b"ok")), gateway={"drain_timeout_s": 30}) as s:
        await s.agent.send(post(b"/nowhere/v1/x", b"")[:-5] + b"%d\r\n\r\n" % size)
        await until(lambda: s.gateway.stats.refused and not s.gateway.stats.active)
        draining = asyncio.create_task(s.gateway.drain())
        for _ in range(size // 4096):
            await asyncio.sleep(0)
            assert not draining.done()
            await s.agent.send(b"x" * 4096)
        assert (await s.agent.message()).status == 404
        s.agent.close()
        await draining


async def test_a_drain_cuts_and_records_what_does_not_end_in_time():
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await peer.until_gone()

    async with stand(script, gateway={"drain_timeout_s": 0.02}) as s:
        await s.agent.send(post(CHAT))
        await s.agent.head()
        assert await s.agent.chunk() == b"a"
        await s.gateway.drain()
        assert s.gateway.stats.active == 0
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await s.agent.chunk()
    end = s.sink.only.end
    assert (end.outcome, end.response_bytes) == (Outcome.PROXY_CRASHED, 1)
    assert end.error == "the gateway was stopped during the call"


# asyncio leaves a socket that it accepted just before its server was closed to the collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("end", ["drain", "close"])
def test_no_connection_is_served_by_a_gateway_that_has_ended(end, monkeypatch):
    """Also where it is accepted in the moment of the end."""
    monkeypatch.setattr("proxy.wire.agent.LINGER_S", 0.05)

    async def served(turns: int) -> int:
        async with stand(answering(whole(b"ok"))) as s:
            with socket.create_connection(s.address) as late:  # without a turn of this loop
                late.sendall(post(CHAT))
                for _ in range(turns):
                    await asyncio.sleep(0)
                await getattr(s.gateway, end)()
                for _ in range(20):
                    await asyncio.sleep(0)
                return s.gateway.connections

    for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        for turns in range(8):
            with asyncio.Runner(loop_factory=factory) as runner:
                assert runner.run(served(turns)) == 0, (factory, turns)
    gc.collect()  # while the warning is expected


async def test_a_gateway_that_never_started_can_be_closed():
    gateway = Gateway(config_of({}), MemorySink())
    await gateway.drain()
    assert (gateway.connections, gateway.addresses) == (0, [])


def test_the_gateway_runs_on_uvloop():
    async def script(peer: Peer) -> None:
        message = await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.send(chunked([message.body, b"!"]))
        if message.body == b"bye":
            peer.close()
        else:
            await script(peer)

    async def main():
        async with stand(script) as s:
            for body in (b"x" * 300_000, b"b", b"bye"):
                await s.agent.send(post(CHAT, body))
                assert (await s.agent.message()).body == body + b"!"
            await s.agent.send(post(CHAT))
            s.agent.reset()
            await s.sink.until_ended(3)
            return [exchange.end.outcome for exchange in s.sink.ended[:3]]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == [Outcome.COMPLETE] * 3
