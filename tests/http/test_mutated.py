"""Whatever bytes come to the listener: no crash, no way to another host, no secret told.

`make test` sends a share of the strings, `make faults` all; the seed of a batch is the number
of its first string.
"""

import asyncio
import logging
from collections.abc import Iterable

from tests.fakes import MemorySink, Upstream, answering, connect, post, whole
from tests.faults.scale import IS_FULL, left, note
from tests.http.mutated import PIECE, strings
from tests.http.observe import Provider
from tests.wire.gateways import CHAT, config_of, running

SUITE = "http"
SHORT, FULL, BATCH = 5_000, 100_000, 2500
AT_ONCE = 24
QUIET_S = 0.02  # how long an agent waits for a first byte before it says that nothing more comes


class Agent(asyncio.Protocol):
    """Sends a string, waits a moment for an answer, ends its side and keeps what comes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.received = b""
        self.first = asyncio.Event()
        self.over = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self.data)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.first.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.first.set()
        self.over.set()


async def send(port: int, data: bytes) -> bytes:
    transport, agent = await asyncio.get_running_loop().create_connection(
        lambda: Agent(data), "127.0.0.1", port
    )
    try:
        async with asyncio.timeout(QUIET_S):
            await agent.first.wait()
    except TimeoutError:
        pass
    if not agent.over.is_set():
        transport.write_eof()
    async with asyncio.timeout(60):
        await agent.over.wait()
    return agent.received


async def send_all(port: int, waiting: Iterable[bytes]) -> None:
    """`waiting` is shared by several of these."""
    for data in waiting:
        answer = await send(port, data)
        assert PIECE not in answer, data
        assert answer.startswith(b"HTTP/1.1 ") or not answer, data


async def test_no_bytes_crash_the_gateway_mislead_it_or_make_it_talk(caplog):
    caplog.set_level(logging.DEBUG)
    number = left(SUITE, "mutated", short=SHORT, full=FULL)
    first = (FULL if IS_FULL else SHORT) - number
    for seed in range(first, first + number, BATCH):
        await one_batch(seed, BATCH, caplog)
        note(SUITE, mutated=BATCH)


async def one_batch(seed, number, caplog):
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    provider = Provider()
    async with (
        Upstream(answering(whole(b"trap"))).serving() as tripwire,
        provider.serving(),
    ):
        upstream = {"url": f"http://127.0.0.1:{provider.port}"}
        async with running(config_of({"fake": upstream}), MemorySink()) as gateway:
            port = gateway.addresses[0][1]
            waiting = strings(seed, number, tripwire.port)
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(send_all(port, waiting))
            await still_answers(port)
            stats = gateway.stats
        assert tripwire.connections == 0
    assert failures == []
    assert provider.seen, "some strings are requests still"
    assert [seen for seen in provider.seen if not seen.method] == [], "all that goes on is HTTP"
    assert (stats.active, stats.tap_faults) == (0, 0)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert PIECE.decode() not in caplog.text
    caplog.clear()


async def still_answers(port):
    async with connect(("127.0.0.1", port)) as agent:
        await agent.send(post(CHAT))
        assert (await agent.message()).body == b"last"
