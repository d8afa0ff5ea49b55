"""Gateway app: where the gateway's role is built, started and stopped.

Apart from the other roles, so that a gateway's process does not hold decoders, rules and the
database's client, which it never uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket

from proxy.config import Config
from proxy.errors import SpoolUnusable
from proxy.log import event
from proxy.metrics import GatewayMetrics
from proxy.running import run
from proxy.spool.stall import StallGuard
from proxy.spool.writer import SpoolWriter
from proxy.stopping import STOP_S, stop_event
from proxy.tasks import end
from proxy.wire.server import Gateway

LAG_EVERY_S = 0.1
SPOOL_EVERY_S = 1.0
_OFF = "capture.enabled is false"


def run_gateway(config: Config, sock: socket.socket | None, lifeline: int | None) -> None:
    """Serve agents until SIGTERM, SIGINT, SIGHUP or the end of the supervisor."""
    run(config, lambda: _gateway(config, sock, lifeline))


async def _gateway(config: Config, sock: socket.socket | None, lifeline: int | None) -> None:
    stop = stop_event(lifeline, config.gateway.drain_timeout_s + STOP_S)
    _raise_descriptor_limit()
    sink, metrics = _sink(config, ""), GatewayMetrics.create()
    gateway = Gateway(config, sink if isinstance(sink, StallGuard) else None)
    await gateway.start(sock)
    spooling = asyncio.create_task(_keep_spool(config, gateway, sink), name="spool")
    counting = asyncio.create_task(_count(gateway, metrics), name="count")
    watching = asyncio.create_task(watch_lag(metrics), name="lag")
    await stop.wait()
    stop.clear()
    draining = asyncio.create_task(gateway.drain(), name="drain")
    hurrying = asyncio.create_task(stop.wait(), name="hurry")  # asked again: no more patience
    await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    await end((draining, hurrying, counting, watching))
    await gateway.close()
    await end([spooling])


def _raise_descriptor_limit() -> None:
    """As many connections as the system allows; shells often set a soft limit of 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _sink(config: Config, said: str) -> StallGuard | str:
    """The spool, or why it cannot be used: calls go on, and a reason is said loudly, once."""
    if not config.capture.enabled:
        return _OFF
    try:
        writer = SpoolWriter(
            config.spool_dir,
            max_bytes=config.spool.max_bytes,
            waits_for_disk=config.spool.sync == "power",
        )
    except SpoolUnusable as error:
        if str(error) != said:
            event("nothing is recorded", logging.ERROR, reason=str(error))
        return str(error)
    if said:
        event("calls are recorded")
    return StallGuard(writer)


async def _keep_spool(config: Config, gateway: Gateway, sink: StallGuard | str) -> None:
    """Open the spool as soon as it can be used, seal what is old, and close it when cancelled."""
    try:
        while sink != _OFF:
            await asyncio.sleep(SPOOL_EVERY_S)
            if isinstance(sink, StallGuard):
                sink.seal_if_due()
                continue
            sink = _sink(config, sink)
            if isinstance(sink, StallGuard):
                gateway.record_into(sink)
    finally:
        if isinstance(sink, StallGuard):
            sink.close()


async def _count(gateway: Gateway, metrics: GatewayMetrics) -> None:
    """Copy the worker's plain counters into its metrics, so that no call pays for them."""
    seen: dict[str, int] = {}

    def gained(name: str, now: int) -> int:
        before, seen[name] = seen.get(name, 0), now
        return now - before

    while True:
        stats = gateway.stats
        metrics.connections.set(gateway.connections)
        for kind in ("recorded", "passthrough", "refused"):
            metrics.requests.labels(kind).inc(gained(kind, getattr(stats, kind)))
        metrics.tap_faults.inc(gained("tap_faults", stats.tap_faults))
        await asyncio.sleep(1)


async def watch_lag(metrics: GatewayMetrics) -> None:
    """Measure how late the event loop gets to what is due: what every call on it waits."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        metrics.loop_lag.observe(max(0.0, loop.time() - due))
