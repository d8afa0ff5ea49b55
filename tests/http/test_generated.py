"""Generated exchanges are byte-identical through the gateway, and a cut answer never looks whole.

`make test` runs a share of them, `make faults` all. Seeds and positions are the numbers of the
loop, so what failed can be run again alone.
"""

import asyncio
import base64
import gzip
import json
from hashlib import sha256
from pathlib import Path

import pytest

from tests.fakes import MemorySink, Peer, chunked, connect, post
from tests.faults.scale import left, note
from tests.http.generated import draw
from tests.wire.gateways import CHAT, stand

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
SUITE = "http"
AT_ONCE = 8


async def test_generated_exchanges_are_byte_identical():
    number = left(SUITE, "exchanges", short=600, full=6000)
    waiting = list(range(number))
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(exchanges(waiting))
    note(SUITE, exchanges=number)


async def exchanges(seeds):
    """Run exchanges through one gateway until none is left."""
    drawn = received = None

    async def script(peer: Peer) -> None:
        nonlocal received
        while True:
            received = await peer.message()
            await peer.send(*drawn.answer_writes)
            if drawn.closes:
                peer.close()
                return

    async with stand(script, sink=MemorySink()) as s:
        while seeds:
            seed = seeds.pop()
            drawn = draw(seed)
            s.sink.exchanges.clear()
            async with connect(s.address) as agent:
                sending = asyncio.create_task(agent.send(*drawn.request_writes))
                answer = await agent.message()
                await sending
            assert received.body == drawn.request_body, seed
            assert answer.body == drawn.answer_body, seed
            assert answer.first_line == drawn.status_line, seed
            assert kept_lines(answer) == drawn.answer_lines, seed
            check_record(s.sink, drawn, seed)


def kept_lines(answer):
    """The answer's field lines, without what is the gateway's to set."""
    own = (b"transfer-encoding", b"connection", b"x-agent-telemetry-id")
    return [name + b": " + value for name, value in answer.fields if name.lower() not in own]


def check_record(sink, drawn, seed):
    assert len(sink.exchanges) == drawn.is_recorded, seed
    if drawn.is_recorded:
        kept = sink.only
        assert kept.request == drawn.request_body, seed
        assert b"".join(piece.data for piece in kept.response) == drawn.answer_body, seed
        assert kept.response_sha256 == sha256(drawn.answer_body).hexdigest(), seed


REPLIES = {
    "openai.chat.completions": True,
    "openai.responses": True,
    "anthropic.messages": True,
    "gemini.generateContent": False,
    "cohere.chat": False,
}  # recorded replies, and whether they were streamed


def recorded(name, is_streamed):
    """The shortest recorded reply of this kind that is worth cutting."""
    file = CORPUS / f"{name}.jsonl.gz"
    if not file.exists():
        pytest.skip(f"no recorded replies at {CORPUS}")
    with gzip.open(file) as cases:
        bodies = [
            base64.b64decode(case["response"].get("body_b64") or "")
            for case in map(json.loads, cases)
            if case["stream"] == is_streamed and case["response"]["status"] == 200
        ]
    return min((body for body in bodies if len(body) > 300), key=len)


def framed(body, framing):
    """The reply as a provider would send it; one event, or 64 bytes, a chunk."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    events = [body[at : at + 64] for at in range(0, len(body), 64)]
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(events)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("name", REPLIES)
async def test_a_recorded_reply_cut_at_any_byte_never_looks_whole(name, framing):
    """Whether the provider closes or resets, the agent sees an error or a broken answer."""
    wire = framed(recorded(name, REPLIES[name]), framing)
    figure = f"cuts_{name}_{framing}"
    short = 25
    step = 1 if left(SUITE, figure, short=0, full=1) else max(1, len(wire) // short)
    places = range(0, len(wire), step)
    at = 0

    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(wire[:at])
        peer.close() if at % 2 else peer.reset()

    async with stand(script) as s:
        for at in places:
            async with connect(s.address) as agent:
                await agent.send(post(CHAT))
                try:
                    answer = await agent.message()
                except (ConnectionError, asyncio.IncompleteReadError):
                    continue
                assert answer.status == 502, at
                assert at < wire.index(b"\r\n\r\n") + 4, at
        await s.sink.until_ended(len(places))
    assert {e.end.outcome.value for e in s.sink.ended} == {"upstream_reset"}
    note(SUITE, cuts=len(places), **{figure: 1})
