"""One gateway in trouble: no descriptors, a log nobody reads, a full disk, and being stopped."""

import asyncio
import contextlib
import os
import resource
import signal
import time
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp import web

from proxy.exchange import Outcome
from proxy.gateway_app import LAG_EVERY_S, watch_lag
from proxy.metrics import GatewayMetrics
from proxy.spool.reader import SpoolReader
from tests.e2e.provider import Provider, events, whole
from tests.e2e.stack import Stack, until
from tests.faults.scale import IS_FULL
from tests.faults.small_disk import mounted
from tests.faults.test_outage import one_call
from tests.serving import serving
from tests.spool.samples import read_all, totals

GROWTH_MB_MAX = 100
pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")


@contextlib.asynccontextmanager
async def gateway(tmp_path: Path, pause_s: float = 0, **settings: str):
    provider = Provider(pause_s)
    async with (
        provider.serving() as upstream,
        Stack(tmp_path / "data", upstream, role="gateway", **settings) as stack,
    ):
        yield stack, provider


def spool_of(stack: Stack) -> Path:
    return Path(stack.environment.get("AGENT_TELEMETRY__SPOOL__DIR", stack.data_dir / "spool"))


def recorded(stack: Stack) -> dict[str, Outcome | None]:
    reader = SpoolReader(spool_of(stack))
    found = read_all(reader)
    reader.close()
    return {str(d.id): d.exchange.end and d.exchange.end.outcome for d in found}


async def test_without_descriptors_open_calls_go_on_and_new_ones_come_later(tmp_path):
    async with gateway(tmp_path, pause_s=0.1) as (stack, _):
        assert stack.process is not None
        async with aiohttp.ClientSession() as session:
            running = asyncio.create_task(one_call(session, stack.url, 1))
            await until(lambda: has_spooled(stack, 1), "the call has begun")
            resource.prlimit(stack.process.pid, resource.RLIMIT_NOFILE, (64, 64))
            crowd = [await connection(stack.port) for _ in range(200)]
            ids = [await running]
            for writer in crowd:
                writer.close()
            async with asyncio.timeout(120):
                ids.append(await patient_call(session, stack.url))
        assert recorded(stack) == dict.fromkeys(ids, Outcome.COMPLETE)


async def has_spooled(stack: Stack, calls: int) -> bool:
    return totals(spool_of(stack)).captured >= calls


async def connection(port: int) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    return writer


async def patient_call(session: aiohttp.ClientSession, url: str) -> str:
    """As an agent's SDK does: try again until it works."""
    while True:
        try:
            return await one_call(session, url, 2)
        except (aiohttp.ClientError, AssertionError):
            await asyncio.sleep(0.1)


async def test_large_calls_at_once_fit_a_little_memory(tmp_path):
    """Several times the memory that the process may take passes through at once, both ways."""
    body, calls = bytes(range(256)) * 20_000, 40
    digests = []

    async def answer(request: web.BaseRequest) -> web.Response:
        digest = sha256()
        async for piece in request.content.iter_any():
            digest.update(piece)
        digests.append(digest.hexdigest())
        return web.Response(body=body)

    async def call(session: aiohttp.ClientSession, url: str) -> None:
        digest = sha256()
        async with session.post(f"{url}/openai/v1/chat/completions", data=BytesIO(body)) as got:
            async for piece in got.content.iter_any():
                digest.update(piece)
        digests.append(digest.hexdigest())

    settings = {"CAPTURE__MAX_BODY_BYTES": "100000"}
    async with (
        serving(answer) as upstream,
        Stack(tmp_path / "data", upstream, role="gateway", **settings) as stack,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        await call(session, stack.url)
        before = peak_mb(stack)
        await asyncio.gather(*(call(session, stack.url) for _ in range(calls)))
        growth = peak_mb(stack) - before
    assert growth < GROWTH_MB_MAX < 2 * calls * len(body) / 2**20 / 3
    assert digests == [sha256(body).hexdigest()] * 2 * (calls + 1)
    assert set(recorded(stack).values()) == {Outcome.COMPLETE}
    assert totals(spool_of(stack)).stored == calls + 1


def peak_mb(stack: Stack) -> float:
    (line,) = (
        line
        for line in Path(f"/proc/{stack.process.pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    return int(line.split()[1]) / 1024


async def test_what_a_body_holds_costs_the_gateway_nothing(tmp_path):
    """Bodies that are slow to read pass for what others of their size cost; a stream beside them
    arrives whole. Processor time of the process, against that of reading them once."""
    size, times = (20 if IS_FULL else 8) * 2**20, 3
    numbers = b'{"messages":[' + b"1," * (size // 2) + b"1]}"
    text = b'{"messages":["' + b"1" * (len(numbers) - 18) + b'"]}'
    began = time.process_time()
    orjson.loads(numbers)
    reading_s = time.process_time() - began

    async def answer(request: web.BaseRequest) -> web.Response:
        body = b"".join([piece async for piece in request.content.iter_any()])
        return web.Response(body=body, content_type="application/json")

    spent = {numbers: 0.0, text: 0.0}
    async with (
        serving(answer) as upstream,
        Provider(0.05).serving() as canary,
        Stack(
            tmp_path / "data",
            upstream,
            role="gateway",
            UPSTREAMS__ANTHROPIC__URL=canary,
            UPSTREAMS__ANTHROPIC__DIALECT="openai",
        ) as stack,
        aiohttp.ClientSession() as session,
    ):
        stream = asyncio.create_task(streamed(session, f"{stack.url}/anthropic"))
        for _ in range(times):
            for body in spent:
                before = processor_s(stack)
                url = f"{stack.url}/openai/v1/chat/completions"
                async with session.post(url, data=BytesIO(body)) as got:
                    assert await got.read() == body
                spent[body] += processor_s(stack) - before
        assert await stream == b"".join(events("canary"))
    assert spent[numbers] - spent[text] < times * reading_s / 2, (spent.values(), reading_s)


async def streamed(session: aiohttp.ClientSession, url: str) -> bytes:
    body = {"messages": [{"role": "user", "content": "canary"}], "stream": True}
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        return await answer.read()


def processor_s(stack: Stack) -> float:
    assert stack.process is not None
    fields = Path(f"/proc/{stack.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_loop_that_is_held_up_shows():
    metrics = GatewayMetrics.create()
    watching = asyncio.create_task(watch_lag(metrics))
    for _ in range(3):
        await asyncio.sleep(0)
    time.sleep(LAG_EVERY_S + 0.3)  # the fault
    lags = []
    while not lags:
        await asyncio.sleep(0)
        lags = [s.value for m in metrics.loop_lag.collect() for s in m.samples if is_sum(s)]
        lags = [value for value in lags if value]
    watching.cancel()
    assert sum(lags) >= 0.25


def is_sum(sample) -> bool:
    return sample.name.endswith("_sum")


async def test_a_log_that_nobody_reads_holds_no_call_up(tmp_path):
    pipe = (tmp_path / "data").with_suffix(".log")
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        async with gateway(tmp_path) as (stack, _), aiohttp.ClientSession() as session:
            body = {"messages": [{"content": "no model call: a line in the log for each"}]}
            for number in range(700):  # of 100 bytes and more; a pipe holds 64 KiB
                url = f"{stack.url}/openai/v1/{'x' * 60}/{number}"
                async with session.post(url, json=body) as answer:
                    assert answer.status == 200
                    await answer.read()
            with pytest.raises(BlockingIOError):
                os.write(held, b"x" * 65_536)  # the pipe is full
            await one_call(session, stack.url, 1)
            assert await stack.stop() == 0
            await stack.start()
    finally:
        os.close(held)


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_stop_lets_streams_end_and_a_second_one_cuts_them(tmp_path, signals):
    streams = 20
    async with gateway(tmp_path, pause_s=0.1, GATEWAY__DRAIN_TIMEOUT_S="20") as (stack, provider):
        assert stack.process is not None
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            calls = [
                asyncio.create_task(one_call(session, stack.url, 2 * n + 1)) for n in range(streams)
            ]
            await until(lambda: reached(provider, streams), "all streams are open")
            for _ in range(signals):
                stack.process.send_signal(signal.SIGTERM)
                await until(lambda: refuses(stack.port), "no new call is taken")
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert await asyncio.to_thread(stack.process.wait, 120) == 0
        outcomes = set(recorded(stack).values())
        if signals == 1:
            assert all(isinstance(end, str) for end in ends)
            assert outcomes == {Outcome.COMPLETE}
        else:
            assert all(isinstance(end, aiohttp.ClientError) for end in ends)
            assert outcomes == {Outcome.PROXY_CRASHED}
        assert len(recorded(stack)) == 0  # all were acknowledged
        assert totals(spool_of(stack)).stored == streams
        await stack.start()


async def reached(provider: Provider, calls: int) -> bool:
    return len(provider.called) >= calls


async def refuses(port: int) -> bool:
    try:
        (await connection(port)).close()
    except OSError:
        return True
    return False


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MB."""
    where = tmp_path / "disk"
    where.mkdir()
    with mounted(where, "6m"):
        yield where


async def test_on_a_full_disk_calls_are_served_and_keep_their_heads(tmp_path, small_disk):
    async with gateway(tmp_path, SPOOL__DIR=str(small_disk / "spool")) as (stack, _):
        filler = small_disk / "filler"
        async with aiohttp.ClientSession() as session:
            before = await one_call(session, stack.url, 0)
            with contextlib.suppress(OSError):
                filler.write_bytes(bytes(8 * 2**20))
            with open(filler, "ab", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(512))
            during = [await one_call(session, stack.url, 2 * n) for n in range(50)]
            filler.unlink()
            after = ""
            while not await is_kept(stack, after):
                after = await one_call(session, stack.url, 0)
        reader = SpoolReader(spool_of(stack))
        found = {str(d.id): d.exchange for d in read_all(reader)}
        reader.close()
    counted = totals(spool_of(stack))
    assert {before, after, *during} <= found.keys()
    assert all(exchange.end is not None for exchange in found.values())
    assert found[before].response_body == whole("call 0")
    assert found[after].response_body == whole("call 0")
    assert {len(found[id].response_body) for id in during[1:]} == {0}
    assert sum(counted.lost.values()) == 0
    assert counted.truncated >= len(during) - 1


async def is_kept(stack: Stack, id: str) -> bool:
    """Whether this call's answer lies in the spool."""
    await asyncio.sleep(0.01)
    marked = bytes.fromhex(id.replace("-", ""))
    for path in spool_of(stack).glob("0/*.seg"):
        data = path.read_bytes()
        if marked and marked in data and whole("call 0") in data[data.index(marked) :]:
            return True
    return False


async def test_a_spool_that_cannot_be_used_at_first_is_used_later(tmp_path, small_disk):
    filler = small_disk / "filler"
    with contextlib.suppress(OSError):
        filler.write_bytes(bytes(8 * 2**20))
    async with (
        gateway(tmp_path, SPOOL__DIR=str(small_disk / "spool")) as (stack, _),
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(KeyError):  # served, without the id of a row
            await one_call(session, stack.url, 1)
        filler.unlink()

        async def is_recording() -> bool:
            return "calls are recorded" in stack.log_text()

        await until(is_recording, "calls are recorded")
        kept = await one_call(session, stack.url, 2)
        assert await stack.stop() == 0
        assert recorded(stack) == {kept: Outcome.COMPLETE}
        await stack.start()


async def test_where_calls_are_to_be_refused_a_full_disk_does_so(tmp_path, small_disk):
    settings = {"SPOOL__DIR": str(small_disk / "spool"), "SPOOL__WHEN_FULL": "refuse"}
    async with gateway(tmp_path, **settings) as (stack, _), aiohttp.ClientSession() as session:
        await one_call(session, stack.url, 0)
        filler = small_disk / "filler"
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(8 * 2**20))
        statuses = []
        for _ in range(3):
            body = {"model": "m", "messages": [{"role": "user", "content": "x" * 5000}]}
            url = f"{stack.url}/openai/v1/chat/completions"
            async with session.post(url, json=body) as answer:
                statuses.append(answer.status)
        assert statuses[-1] == 503
        filler.unlink()
        async with asyncio.timeout(120):
            await patient_call(session, stack.url)
