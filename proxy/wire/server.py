"""Server: the gateway as a whole: its listening socket, its connections, and its end.

Its connections read requests and wait, `Relay` answers them; here they are counted and ended.
"""

from __future__ import annotations

import asyncio
import socket

from proxy.config import Config, split_listen
from proxy.wire.agent import AgentConnection, AgentServer
from proxy.wire.relay import Relay, Stats
from proxy.wire.tap import Sink
from proxy.wire.upstream import limits_of

BACKLOG = 1024
_ABORT_WAIT_S = 5.0
_FLUSH_S, _FLUSH_POLL_S = 5.0, 0.02


class Gateway:
    """One gateway worker: `start`, then `drain` or `close`, once."""

    def __init__(self, config: Config, sink: Sink | None) -> None:
        """`sink` None: forward only. Raises ConfigError."""
        self._config = config
        self._relay = Relay(config, sink)
        self._server: AgentServer | None = None
        self._listener: asyncio.Server | None = None

    @property
    def stats(self) -> Stats:
        return self._relay.stats

    def record_into(self, sink: Sink) -> None:
        """Record the calls that begin from now on."""
        self._relay.record_into(sink)

    @property
    def connections(self) -> int:
        """Open connections from agents."""
        return len(self._server.connections) if self._server else 0

    @property
    def addresses(self) -> list[object]:
        """Where the gateway listens: (host, port, …) or a path, per socket."""
        sockets = self._listener.sockets if self._listener else ()
        return [listening.getsockname() for listening in sockets]

    async def start(self, sock: socket.socket | None = None) -> None:
        """Serve on a socket that listens already, else on gateway.listen."""
        gateway = self._config.gateway
        loop = asyncio.get_running_loop()
        server = self._server = AgentServer(
            self._relay.handle,
            limits_of(gateway),
            header_timeout_s=gateway.header_timeout_s,
            idle_timeout_s=gateway.idle_timeout_s,
            connections_max=gateway.max_connections,
        )
        where = split_listen(gateway.listen)
        if sock is not None:
            self._listener = await loop.create_server(server, sock=sock, backlog=BACKLOG)
        elif isinstance(where, tuple):
            self._listener = await loop.create_server(server, *where, backlog=BACKLOG)
        else:
            self._listener = await loop.create_unix_server(server, str(where), backlog=BACKLOG)

    async def drain(self) -> None:
        """Stop accepting, let calls end for up to drain_timeout_s, then cut and record the rest."""
        self._relay.is_draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in self._open():
            if connection.is_idle:
                connection.close()
        await self._until_quiet(self._config.gateway.drain_timeout_s)
        await self._flush()
        await self.close()

    async def _flush(self) -> None:
        """Let connections whose calls have ended take what still waits in them, for a while."""
        deadline = asyncio.get_running_loop().time() + _FLUSH_S
        while (left := self._open()) and asyncio.get_running_loop().time() < deadline:
            idle = [connection for connection in left if connection.is_idle]
            if not idle and self._relay.stats.active:
                return  # what is left are calls that did not end in time
            for connection in idle:  # one whose call ended just now is idle a moment later
                if connection.transport is not None:
                    connection.transport.close()
            await asyncio.sleep(_FLUSH_POLL_S)

    async def close(self) -> None:
        """Cut whatever is open, record it, and return when every call has ended."""
        self._relay.is_draining = self._relay.is_stopped = True
        if self._server is not None:
            self._server.is_closed = True
        if self._listener is not None:
            self._listener.close()
        for connection in self._open():
            connection.abort()
        await self._until_quiet(_ABORT_WAIT_S)
        self._relay.close()

    def _open(self) -> list[AgentConnection]:
        return list(self._server.connections) if self._server else []

    async def _until_quiet(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._relay.quiet()
        except TimeoutError:
            pass
