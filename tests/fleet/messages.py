"""Messages of tests: made, taken from the stream, and counted in it."""

import contextlib
from uuid import uuid4

from proxy.exchange import Exchange, Start
from proxy.fleet.consumer import Consumer
from proxy.fleet.message import Message
from proxy.fleet.publisher import Packed
from proxy.fleet.received import Received
from tests.e2e.stack import until


def packed(size_bytes: int = 10, **more) -> Packed:
    id = uuid4()
    start = Start(id, 0, "openai", "openai", "responses", "POST", "/", **more)
    # What cannot be compressed, so that the size is what travels.
    body = b"".join(uuid4().bytes for _ in range(-(-size_bytes // 16)))
    is_part = start.socket is not None
    return Packed(id, start.labels.project, is_part, Message(Exchange(start, body)).to_bytes())


@contextlib.asynccontextmanager
async def consuming(connection, settings, ahead_max=100):
    consumer = Consumer(connection, settings, ahead_max)
    consumer.start()
    try:
        yield consumer
    finally:
        await consumer.close()


async def taken(consumer, count: int) -> list[Received]:
    """The next messages, so many."""
    found: list[Received] = []

    async def enough() -> bool:
        found.extend(await consumer.read(count - len(found), 2**30))
        return len(found) >= count

    await until(enough, f"{count} messages arrive")
    return found


async def left(connection, settings) -> int:
    return (await connection.js.stream_info(settings.stream)).state.messages


async def until_left(connection, settings, count: int) -> None:
    async def so() -> bool:
        return await left(connection, settings) == count

    await until(so, f"{count} messages are left")
