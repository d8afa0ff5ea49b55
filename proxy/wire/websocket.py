"""Websocket: after a 101, bytes pass both ways until both sides have ended. Nothing is parsed.

Each `Half` receives from one side and writes to the other. A slow side pauses the reading of the
other; an end of file is passed on as one, so either side may end first.
"""

from __future__ import annotations

import asyncio

from proxy.wire.agent import AgentConnection
from proxy.wire.connection import Connection


class Half(asyncio.Protocol):
    """Receives from `source` and writes to `target`."""

    def __init__(
        self, source: asyncio.Transport, target: asyncio.Transport, ended: asyncio.Future[None]
    ) -> None:
        self._source = source
        self._target = target
        self._ended = ended
        self.is_over = False
        self.other: Half | None = None

    def data_received(self, data: bytes) -> None:
        self._target.write(data)

    def eof_received(self) -> bool:
        self.is_over = True
        if self.other is not None and self.other.is_over:
            self._end()
        elif self._target.can_write_eof():
            self._target.write_eof()
        else:  # TLS has no half-close
            self._end()
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self._end()

    def pause_writing(self) -> None:
        self._target.pause_reading()

    def resume_writing(self) -> None:
        if not self._target.is_closing():
            self._target.resume_reading()

    def _end(self) -> None:
        self._target.close()
        if not self._ended.done():
            self._ended.set_result(None)


async def tunnel(agent: AgentConnection, connection: Connection) -> None:
    """Pass bytes until both sides have ended or one is gone."""
    ended = asyncio.get_running_loop().create_future()
    near, far = agent.transport, connection.transport
    if near is None or far is None:
        return
    from_agent, from_upstream = Half(near, far, ended), Half(far, near, ended)
    from_agent.other, from_upstream.other = from_upstream, from_agent
    connection.become_tunnel(from_upstream)
    agent.become_tunnel(from_agent)
    try:
        await ended
    finally:
        far.close()
