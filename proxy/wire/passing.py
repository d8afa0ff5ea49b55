"""Passing: the body of an answer, from the upstream's connection to the agent's.

Each piece is appended to the tap before it is released. While the agent keeps up and nothing waits,
a piece goes on from the callback that read it, and the task of the call sleeps; the task is left
with the head, the last piece, and agents that are slow.
"""

from __future__ import annotations

import asyncio

from proxy.wire.agent import AgentConnection
from proxy.wire.connection import Connection
from proxy.wire.tap import Tap
from proxy.wire.upload import chunk


async def pass_body(
    agent: AgentConnection,
    connection: Connection,
    tap: Tap | None,
    out: bytes,
    idle_timeout_s: float,
    *,
    is_chunked: bool,
) -> bytes:
    """Pass the head `out` and the body on; what is to be sent once the end has been recorded.

    Raises UpstreamFault, ConnectionError where the agent is gone, TimeoutError where it does not
    read.
    """

    def pass_on(piece: bytes) -> bool:
        """What the loop below does with a piece, without waking this task for it."""
        transport = agent.transport
        if transport is None or agent.writing_paused:
            return False
        if tap is not None:
            tap.response(piece)
        transport.write(chunk(piece) if is_chunked else piece)
        return True

    while not connection.is_drained:
        if out and not connection.has_piece:
            if tap is not None:
                tap.release()
            agent.send(out)
            out = b""
        if not out:
            connection.pass_on(pass_on)
        piece = await connection.read()
        if not piece:
            break
        is_last = connection.is_drained
        if tap is not None:
            tap.response(piece, is_last=is_last)
        out += chunk(piece) if is_chunked else piece
        if is_last:
            break
        agent.send(out)
        out = b""
        await drained(agent, idle_timeout_s)
    return out


async def drained(agent: AgentConnection, idle_timeout_s: float) -> None:
    """Wait until the agent takes more. Raises ConnectionError, or TimeoutError if it does not."""
    if agent.writing_paused:
        async with asyncio.timeout(idle_timeout_s):
            await agent.drain()
