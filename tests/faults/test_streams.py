"""A thousand streams at once: none is broken, and the gateway stays small."""

import asyncio
from collections import Counter

import pytest

from tests.e2e.provider import Provider, events
from tests.e2e.stack import Stack, until
from tests.faults.scale import IS_FULL, figures, note
from tests.faults.test_outage import resident_mb, stored

SUITE = "streams"
STREAMS, SECONDS = (1000, 120) if IS_FULL else (60, 1)
MEMORY_MB_MAX = 300
REQUEST = (
    b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)


async def test_no_stream_is_broken(tmp_path):
    if IS_FULL and figures().get(SUITE, {}).get("streams"):
        pytest.skip("done on this commit")
    pause_s = SECONDS / len(events("x"))
    async with (
        Provider(pause_s).serving() as upstream,
        Stack(tmp_path / "data", upstream) as stack,
    ):
        await stack.until_ready()
        watch = asyncio.create_task(largest(stack))
        found = await asyncio.gather(*(stream(stack.port, n) for n in range(STREAMS)))
        watch.cancel()
        (memory_mb,) = await asyncio.gather(watch)
        outcomes = Counter(outcome for outcome, _ in found)
        ids = {id for _, id in found}
        await until(lambda: stored(stack, ids), "every stream has its row", 600)
    assert outcomes == {"whole": STREAMS}
    assert memory_mb <= MEMORY_MB_MAX
    note(SUITE, streams=STREAMS, seconds_max=SECONDS, gateway_mb_max=round(memory_mb))


async def stream(port: int, number: int) -> tuple[str, str]:
    """One call on a connection of its own; whether it was whole, and the id of its row."""
    name = f"stream-{number}"
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"%b"}]}'
    body %= name.encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(REQUEST % (len(body), body))
        head = await reader.readuntil(b"\r\n\r\n")
        (id,) = (
            line.split(b": ")[1].decode()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"x-agent-telemetry-id")
        )
        data = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            data += (await reader.readexactly(size + 2))[:-2]
        return "whole" if data == b"".join(events(name)) else "changed", id
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        return type(error).__name__, ""
    finally:
        writer.close()


async def largest(stack: Stack) -> float:
    """The gateway's largest size until cancelled."""
    (pid,) = stack.processes("gateway")
    most = 0.0
    while True:
        most = max(most, resident_mb(pid))
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            return most
