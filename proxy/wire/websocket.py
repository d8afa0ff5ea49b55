"""Websocket: after a 101, bytes pass both ways until both sides have ended. Nothing is parsed.

Each `Half` receives from one side and writes to the other. A slow side pauses the reading of the
other; an end of file is passed on as one, so either side may end first. What passes is shown to a
watcher before it is released, and so is which side ended first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from proxy.wire.agent import AgentConnection
from proxy.wire.connection import Connection


class Half(asyncio.Protocol):
    """Receives from one side and writes to `target`."""

    def __init__(
        self,
        target: asyncio.Transport,
        ended: asyncio.Future[None],
        watch: Callable[[bytes], None] | None,
        on_end: Callable[[Half], None],
    ) -> None:
        self._target = target
        self._ended = ended
        self._watch = watch
        self._on_end = on_end
        self.is_over = False
        self.other: Half | None = None

    def data_received(self, data: bytes) -> None:
        if self._watch is not None:
            self._watch(data)
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
        if not self._ended.done():
            other = self.other
            self._on_end(other if other is not None and other.is_over else self)
            self._ended.set_result(None)
        self._target.close()


class Watcher(Protocol):
    """Sees what passes. Its methods never raise."""

    def request(self, data: bytes) -> None: ...

    def response(self, data: bytes) -> None: ...


async def tunnel(
    agent: AgentConnection,
    connection: Connection,
    watcher: Watcher | None,
    on_end: Callable[[bool], None],
) -> None:
    """Pass bytes until both sides have ended or one is gone.

    `on_end` is told in that moment whether it was the agent that ended first.
    """
    ended = asyncio.get_running_loop().create_future()
    near, far = agent.transport, connection.transport
    if near is None or far is None:
        return

    def over(first: Half) -> None:
        on_end(first is from_agent)

    from_agent = Half(far, ended, watcher.request if watcher else None, over)
    from_upstream = Half(near, ended, watcher.response if watcher else None, over)
    from_agent.other, from_upstream.other = from_upstream, from_agent
    connection.become_tunnel(from_upstream)
    agent.become_tunnel(from_agent)
    try:
        await ended
    finally:
        far.close()
