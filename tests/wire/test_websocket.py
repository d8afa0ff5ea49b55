"""Websocket: after the upstream's 101 bytes pass both ways, with back-pressure and half-close."""

import asyncio

import pytest

from proxy.exchange import Outcome
from tests.fakes import Peer, answering, whole
from tests.wire.gateways import stand

UPGRADE = (
    b"GET /fake/v1/realtime?model=m HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: WebSocket\r\nSec-WebSocket-Key: abc\r\nX-A: 1\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: xyz\r\n\r\n"
)


async def switched(peer: Peer) -> None:
    head = await peer.head()
    assert head.first_line == b"GET /v1/realtime?model=m HTTP/1.1"
    assert (head.get(b"upgrade"), head.get(b"connection")) == (b"websocket", b"Upgrade")
    assert head.get(b"sec-websocket-key") == b"abc"
    await peer.send(SWITCH)


async def test_bytes_pass_both_ways_until_both_have_ended():
    async def script(peer: Peer) -> None:
        await switched(peer)
        await peer.send(b"hello")
        while data := await peer.reader.read(65536):
            await peer.send(data.upper())
        await peer.send(b"bye")  # the agent has ended, we have not

    async with stand(script) as s:
        await s.agent.send(UPGRADE)
        head = await s.agent.head()
        assert (head.status, head.get(b"sec-websocket-accept")) == (101, b"xyz")
        assert await s.agent.reader.readexactly(5) == b"hello"
        for word in (b"\x00one\xff", b"two"):
            await s.agent.send(word)
            assert await s.agent.reader.readexactly(len(word)) == word.upper()
        s.agent.writer.write_eof()
        assert await s.agent.rest() == b"bye"
        assert s.gateway.stats.websockets == 1
        id = head.get(b"x-agent-telemetry-id")
    recorded = s.sink.only
    assert str(recorded.start.id).encode() == id
    assert recorded.start.endpoint == "socket.realtime"
    assert recorded.head.status == 101
    assert recorded.request == b"\x00one\xfftwo"
    assert recorded.response_body == b"hello\x00ONE\xffTWObye"
    assert recorded.end.outcome is Outcome.CLIENT_DISCONNECTED


async def test_what_passes_is_recorded_before_it_is_released():
    async def script(peer: Peer) -> None:
        await switched(peer)
        await peer.send(b"news")
        await peer.until_gone()

    async with stand(script) as s:
        await s.agent.send(UPGRADE)
        await s.agent.head()
        assert await s.agent.reader.readexactly(4) == b"news"
        assert s.sink.only.response_body == b"news"
        assert s.sink.only.end is None


@pytest.mark.parametrize(
    ("who", "outcome"),
    [
        ("agent", Outcome.CLIENT_DISCONNECTED),
        ("upstream", Outcome.COMPLETE),
        ("gateway", Outcome.PROXY_CRASHED),
    ],
)
async def test_when_one_side_is_gone_so_is_the_other_and_who_it_was_is_told(who, outcome):
    async def script(peer: Peer) -> None:
        await switched(peer)
        if who == "upstream":
            peer.reset()
        await peer.until_gone()

    async with stand(script) as s:
        await s.agent.send(UPGRADE)
        await s.agent.head()
        if who == "agent":
            s.agent.reset()
        elif who == "gateway":
            await s.gateway.drain()
        await s.sink.until_ended()
        await s.upstream.until_left()
        await s.agent.until_gone()
    assert s.sink.only.end.outcome is outcome


@pytest.mark.parametrize("path", [b"/ws/google.ai.BidiGenerateContent", b"/v1/other"])
async def test_other_sockets_are_relayed_and_counted_only(path):
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH)
        await peer.until_gone()

    async with stand(script) as s:
        await s.agent.send(UPGRADE.replace(b"/v1/realtime", path))
        head = await s.agent.head()
        assert head.get(b"x-agent-telemetry-id") is None
        assert (s.gateway.stats.websockets, s.gateway.stats.passthrough) == (1, 1)
    assert s.sink.exchanges == {}


async def test_a_socket_that_another_gateway_records_is_not_recorded_twice():
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH[:-2] + b"x-agent-telemetry-id: theirs\r\n\r\n")
        await peer.until_gone()

    async with stand(script) as s:
        await s.agent.send(UPGRADE)
        head = await s.agent.head()
        assert head.all(b"x-agent-telemetry-id") == [b"theirs"]
    assert s.sink.exchanges == {}


async def test_bytes_sent_with_the_handshake_are_not_lost():
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH + b"first")
        assert await peer.reader.readexactly(5) == b"early"
        await peer.send(b"second")

    async with stand(script) as s:
        await s.agent.send(UPGRADE + b"early")
        await s.agent.head()
        assert await s.agent.rest() == b"firstsecond"


async def test_an_upstream_that_ends_first_lets_the_agent_finish():
    said = []

    async def script(peer: Peer) -> None:
        await switched(peer)
        peer.writer.write_eof()
        said.append(await peer.rest())

    async with stand(script) as s:
        await s.agent.send(UPGRADE)
        await s.agent.head()
        assert await s.agent.rest() == b""
        await s.agent.send(b"last words")
        s.agent.writer.write_eof()
        await s.agent.until_gone()
        await s.upstream.until_left()
    assert said == [b"last words"]


async def test_a_declined_upgrade_is_an_ordinary_answer():
    async with stand(answering(whole(b"no", status=b"426 Upgrade Required"))) as s:
        for _ in range(2):
            await s.agent.send(UPGRADE)
            answer = await s.agent.message()
            assert (answer.status, answer.body) == (426, b"no")
            assert answer.get(b"x-agent-telemetry-id") is None
    assert s.sink.exchanges == {}


async def test_h2c_is_stripped_and_the_request_goes_on():
    seen = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.message())
            await peer.send(whole(b"ok"))

    request = (
        b"POST /fake/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 4\r\n\r\nbody"
    )
    async with stand(script) as s:
        await s.agent.send(request + b"GET /fake/behind HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await s.agent.message()).body == b"ok"
        assert (await s.agent.message()).body == b"ok"
    message, behind = seen
    assert message.body == b"body"
    assert [name for name, _ in message.fields] == [b"Host", b"Content-Length"]
    assert b"/behind" in behind.first_line


async def test_a_slow_side_holds_the_other_back():
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await switched(peer)
        while sent < 64 * 2**20:
            await peer.send(b"x" * 65536)
            sent += 65536

    async with stand(script) as s:
        await s.agent.send(UPGRADE)
        await s.agent.head()
        s.agent.writer.transport.pause_reading()
        before = -1
        while sent != before:  # until the provider itself is held back
            before = sent
            for _ in range(200):
                await asyncio.sleep(0)
        assert sent < 32 * 2**20
        s.agent.writer.transport.resume_reading()
        total = len(await s.agent.rest())
    assert total == sent == 64 * 2**20
