"""A gateway in this process, in front of scripted providers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.config import Config
from proxy.wire.server import Gateway
from tests.fakes import MemorySink, Peer, Script, Upstream, connect

CHAT = b"/fake/v1/chat/completions"


def config_of(upstreams: dict[str, Any], **sections: Any) -> Config:
    gateway = {"listen": "127.0.0.1:0", "drain_timeout_s": 0} | sections.pop("gateway", {})
    return Config(data_dir=Path("unused"), gateway=gateway, upstreams=upstreams, **sections)


@asynccontextmanager
async def running(config: Config, sink: MemorySink | None) -> AsyncIterator[Gateway]:
    gateway = Gateway(config, sink)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.close()


class Stand:
    """One provider `fake`, one gateway in front of it, one agent."""

    def __init__(self, upstream: Upstream, gateway: Gateway, sink: MemorySink, agent: Peer) -> None:
        self.upstream = upstream
        self.gateway = gateway
        self.sink = sink
        self.agent = agent

    @property
    def address(self) -> object:
        return self.gateway.addresses[0]


@asynccontextmanager
async def stand(
    script: Script,
    fake: dict[str, Any] | None = None,
    sink: MemorySink | None = None,
    **sections: Any,
) -> AsyncIterator[Stand]:
    """`fake` are further settings of the upstream, `sections` those of the configuration."""
    sink = sink or MemorySink()
    async with Upstream(script).serving() as upstream:
        settings = {"url": f"http://127.0.0.1:{upstream.port}"} | (fake or {})
        config = config_of({"fake": settings}, **sections)
        async with (
            running(config, sink) as gateway,
            connect(gateway.addresses[0]) as agent,
        ):
            yield Stand(upstream, gateway, sink, agent)
