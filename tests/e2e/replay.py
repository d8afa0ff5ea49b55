"""A provider that answers each request with the case its headers name, split as they say.

Runs in a thread of its own, so that blocking SDKs can talk to it. The bytes on the wire are
written by hand: nothing may put them right.
"""

import asyncio
import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.decode.cases import all_cases, body_of
from tests.fakes import Message, Peer

CASES = all_cases()
SPLITS = ("whole", "bytes", "random")
CASE, SPLIT, FRAMING = "x-case", "x-split", "x-framing"
NATURAL = {"streamGenerateContent": "text/event-stream", "api.chat": "application/x-ndjson"}


def pieces_of(body: bytes, split: str, seed: int) -> list[bytes]:
    if split == "whole":
        return [body] if body else []
    if split == "bytes":
        return [body[at : at + 1] for at in range(len(body))]
    rng, pieces, at = random.Random(seed), [], 0
    while at < len(body):
        size = int(2 ** rng.uniform(0, 10))
        pieces.append(body[at : at + size])
        at += size
    return pieces


def content_type(case: dict, body: bytes) -> str:
    if body.startswith((b"data:", b"event:", b":")):
        return "text/event-stream"
    return case.get("content_type") or "application/json"


async def answer(peer: Peer, request: Message) -> None:
    number = int(request.get(CASE.encode()) or 0)
    split = (request.get(SPLIT.encode()) or b"whole").decode()
    is_chunked = (request.get(FRAMING.encode()) or b"chunked") == b"chunked"
    case = CASES[number][1]
    body = body_of(case["answer"])
    framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}"
    head = (
        f"HTTP/1.1 {case.get('status', 200)} Replayed\r\n"
        f"Content-Type: {content_type(case, body)}\r\n"
        f"X-Request-Id: req-{number}\r\nx-odd:  two  blanks \r\nX-Odd: again\r\n"
        f"X-Received: {hashlib.sha256(request.body).hexdigest()}\r\n{framing}\r\n\r\n"
    )
    await peer.send(head.encode())
    for piece in pieces_of(body, split, number):
        await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
        await asyncio.sleep(0)
    if is_chunked:
        await peer.send(b"0\r\n\r\n")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    peer = Peer(reader, writer)
    try:
        while True:
            await answer(peer, await peer.message())
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        pass
    finally:
        writer.transport.abort()


@contextmanager
def replaying() -> Iterator[str]:
    """The base URL of a replaying provider."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="replay")
    thread.start()
    starting = asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)
    server = asyncio.run_coroutine_threadsafe(starting, loop).result()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(_ended(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _ended(server: asyncio.Server) -> None:
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
