"""Relay: what all calls of a gateway share, and how many there are. `Call` is one of them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from proxy.config import Config
from proxy.wire import plans
from proxy.wire.admission import Admission
from proxy.wire.agent import AgentConnection
from proxy.wire.call import Call
from proxy.wire.request import Request
from proxy.wire.signing import signers_of
from proxy.wire.tap import Sink
from proxy.wire.upstream import upstreams_of


@dataclass(slots=True)
class Stats:
    """Plain counters of one gateway process."""

    active: int = 0
    recorded: int = 0
    passthrough: int = 0
    refused: int = 0
    websockets: int = 0
    tap_faults: int = 0

    def count_tap_fault(self) -> None:
        self.tap_faults += 1


class Relay:
    """One gateway's upstreams, rules, counters and sink."""

    def __init__(self, config: Config, sink: Sink | None) -> None:
        self.signers = signers_of(config)
        self.upstreams = upstreams_of(config)
        self.stats = Stats()
        self.room = config.capture.max_body_bytes
        self.idle_timeout_s = config.gateway.idle_timeout_s
        self.adds_id = config.gateway.id_header
        self.record_into(sink)
        self.refuses_when_full = config.spool.when_full == "refuse"
        self.salt = os.urandom(32)
        self.admission = Admission(config, signs=frozenset(self.signers))
        self.plans = plans.Plans(self.admission, self.salt)
        self.is_draining = False
        self.is_stopped = False
        self._quiet: asyncio.Future[None] | None = None

    def record_into(self, sink: Sink | None) -> None:
        """Where the calls that begin from now on are recorded; None: nowhere."""
        self.sink = sink
        self.synced = sink.synced if sink is not None and sink.waits_for_disk else None

    async def handle(self, agent: AgentConnection, request: Request) -> bool:
        """Answer a request; whether the agent's connection may go on."""
        self.stats.active += 1
        try:
            return await Call(self, agent, request).run()
        finally:
            self.stats.active -= 1
            if self.stats.active == 0 and self._quiet is not None and not self._quiet.done():
                self._quiet.set_result(None)

    async def quiet(self) -> None:
        """Wait until no call is open."""
        if self.stats.active:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    def close(self) -> None:
        for upstream in self.upstreams.values():
            upstream.close()
