"""Agents that leave at any moment or send drop by drop: nobody else notices, each has a record."""

import asyncio
import contextlib

import pytest

from proxy.exchange import Outcome
from tests.e2e.provider import events
from tests.fakes import Peer, answering, chunked, connect, post, whole
from tests.faults.scale import IS_FULL
from tests.wire.gateways import CHAT, stand

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = events("left")
DRIPS = 500 if IS_FULL else 100


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("heard", range(len(EVENTS)))
async def test_an_agent_may_leave_after_any_event(heard, how):
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(HEAD, *(chunked([event])[: -len(b"0\r\n\r\n")] for event in EVENTS[:heard]))
        await peer.until_gone()
        gone.set()

    async with stand(script) as s:
        await s.agent.send(post(CHAT))
        await s.agent.head()
        received = b""
        while received != b"".join(EVENTS[:heard]):
            received += await s.agent.chunk()
        getattr(s.agent, how)()
        await asyncio.wait_for(gone.wait(), 60)  # the paid call is ended too
        await s.sink.until_ended()
    assert s.sink.only.end.outcome is Outcome.CLIENT_DISCONNECTED
    assert s.sink.only.response_body == received


async def test_drips_hold_no_call_up():
    """Heads without end, and bodies of which one byte has come; when they are cut: `tests/wire`."""
    async with contextlib.AsyncExitStack() as crowd:
        s = await crowd.enter_async_context(stand(answering(whole(b"served"))))
        drips = [await crowd.enter_async_context(connect(s.address)) for _ in range(DRIPS)]
        for number, drip in enumerate(drips):
            request = post(CHAT, b"x" * 100)
            await drip.send(request[: len(request) - 99] if number % 2 else request[:20])
        assert s.gateway.connections == DRIPS + 1
        await s.agent.send(post(CHAT))
        assert (await s.agent.message()).body == b"served"
        assert s.gateway.connections == DRIPS + 1, "they were all there at that moment"
        for drip in drips:
            drip.close()
        await s.sink.until_ended(DRIPS // 2 + 1)
    outcomes = [exchange.end.outcome for exchange in s.sink.ended]
    assert outcomes.count(Outcome.COMPLETE) == 1
    assert outcomes.count(Outcome.CLIENT_DISCONNECTED) == DRIPS // 2
