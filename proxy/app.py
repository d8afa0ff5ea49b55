"""App: the only place where everything is built, started and stopped.

Each role is one function that runs in a process of its own: `run_gateway`, `run_forwarder`,
`run_recorder`, `run_admin`. `proxy/supervise.py` runs them all on one machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from proxy import __version__
from proxy.addresses import base_urls
from proxy.admin.server import AdminServer
from proxy.config import Config
from proxy.crash import on_loop_error
from proxy.enrich.canonical import Digests
from proxy.errors import SpoolUnusable
from proxy.linker import Linker
from proxy.live import Live
from proxy.log import configure, event, leave
from proxy.metrics import GatewayMetrics, LinkerMetrics, RecorderMetrics, TracingMetrics
from proxy.otel.installed import check_installed
from proxy.pages import Pages
from proxy.probe import gateway_answers
from proxy.reading import dsn_of, is_ready
from proxy.recorder import Recorder
from proxy.retention import Retention
from proxy.rollup import Rollup
from proxy.source import LocalSource, Source
from proxy.spool.stall import StallGuard
from proxy.spool.totals import read_totals, summed
from proxy.spool.writer import SpoolWriter
from proxy.stopping import stop_event, until_stopped
from proxy.store.links import LinkStore
from proxy.store.migrate import migrate
from proxy.store.postgres import Store
from proxy.store.viewer import Viewer
from proxy.tracing import Tracing
from proxy.wire.server import Gateway

if TYPE_CHECKING:
    from proxy.fleet_app import FleetReader

LAG_EVERY_S = 0.1
SPOOL_EVERY_S = 1.0
_OFF = "capture.enabled is false"
NICENESS = 10  # of the recorder: a tenth of the processor's time where the gateway wants it all
FLUSH_S = 5.0  # how long a recorder that is asked to stop works on what is in the spool


def run_gateway(config: Config, sock: socket.socket | None, lifeline: int | None) -> None:
    """Serve agents until SIGTERM, SIGINT or the end of the supervisor."""
    _run(config, lambda: _gateway(config, sock, lifeline))


def run_recorder(config: Config, lifeline: int | None) -> None:
    """Move rows from the spool to the database until asked to stop.

    It has less right to the processor than the gateway: what agents wait for comes first.
    """
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    _run(config, lambda: _recorder(config, lifeline))


def run_forwarder(config: Config, lifeline: int | None) -> None:
    """Move calls from the spool to the stream until asked to stop."""
    from proxy.fleet_app import forwarder

    _run(config, lambda: forwarder(config, lifeline))


def run_admin(config: Config, sock: socket.socket, lifeline: int | None) -> None:
    """Serve health and metrics until asked to stop."""
    _run(config, lambda: _admin(config, sock, lifeline))


def spare_the_collector() -> None:
    """Look for cycles less often, and never in what was made at the start.

    Nearly nothing here is cyclic, and a full pass over the modules takes 20 ms, in the middle of
    some agent's call.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _run(config: Config, role: Callable[[], Coroutine[Any, Any, None]]) -> None:
    listener = configure(config.log)
    spare_the_collector()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.get_loop().set_exception_handler(on_loop_error)
            runner.run(role())
    finally:
        leave(listener)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: a fifth less processor time per streamed event."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None


async def _gateway(config: Config, sock: socket.socket | None, lifeline: int | None) -> None:
    stop = stop_event(lifeline)
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
    for task in (draining, hurrying, counting, watching):
        task.cancel()
    await asyncio.gather(draining, hurrying, counting, watching, return_exceptions=True)
    await gateway.close()
    spooling.cancel()
    await asyncio.gather(spooling, return_exceptions=True)


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


async def _recorder(config: Config, lifeline: int | None) -> None:
    stop = stop_event(lifeline)
    source = await until_stopped(stop, lambda: _open_source(config))
    if source is None:
        return
    if config.store.migrate:
        await until_stopped(stop, lambda: _migrated(config))
    links = LinkStore(dsn_of(config))
    secret = await until_stopped(stop, links.secret)
    if secret is None:  # asked to stop: what is in the spool waits for the next recorder
        await links.close()
        await source.close()
        return
    store = Store(dsn_of(config), config.store)
    recorder = Recorder(config, source, store, RecorderMetrics(), Digests(secret))
    work = asyncio.create_task(recorder.run(), name="recorder")
    tracing = _tracing(config)
    tell = tracing.hear if tracing else None
    linker = Linker(config, links, LinkerMetrics(), tell)
    retention, rollup = Retention(dsn_of(config), config.store), Rollup(dsn_of(config))
    tasks = [
        work,
        asyncio.create_task(linker.run(), name="linker"),
        asyncio.create_task(retention.run(), name="retention"),
        asyncio.create_task(rollup.run(), name="rollup"),
    ]
    if tracing is not None:
        tasks.append(asyncio.create_task(tracing.run(), name="tracing"))
    waiting = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    recorder.stop()
    await asyncio.wait({work}, timeout=FLUSH_S)
    for task in (*tasks, waiting):
        task.cancel()
    await asyncio.gather(*tasks, waiting, return_exceptions=True)
    if tracing is not None:
        await tracing.close()
    await links.close()
    await store.close()
    await source.close()
    if work.done() and not work.cancelled() and (error := work.exception()):
        raise error


def _tracing(config: Config) -> Tracing | None:
    """Where spans go, if anywhere. The SDK is imported only then."""
    if config.otel.endpoint is None:
        return None
    check_installed(config.otel)
    from proxy.otel.sender import Sender

    store, sender = Store(dsn_of(config)), Sender(config.otel, __version__)
    return Tracing(store, sender, TracingMetrics(), with_content=config.otel.content)


async def _open_source(config: Config) -> Source:
    if config.spool.transport == "local":
        return LocalSource(config.spool_dir, config.capture.max_body_bytes)
    from proxy.fleet_app import stream_source

    return await stream_source(config)


async def _migrated(config: Config) -> bool:
    for name in await migrate(dsn_of(config)):
        event("migrated", migration=name)
    return True


async def _admin(config: Config, sock: socket.socket, lifeline: int | None) -> None:
    stop, viewer = stop_event(lifeline), Viewer(dsn_of(config))
    fleet = _fleet_reader(config)
    admin = AdminServer(
        config,
        spool_sums=lambda: summed(read_totals(config.spool_dir)),
        store_answers=lambda: is_ready(config),
        gateway_answers=lambda: gateway_answers(config.gateway.listen),
        pages=Pages(
            viewer,
            Live(viewer),
            base_urls(config),
            lambda: summed(read_totals(config.spool_dir)),
            lambda: gateway_answers(config.gateway.listen),
            fleet.read if fleet else None,
        ),
        fleet=fleet.read if fleet else None,
    )
    await admin.start(sock)
    await stop.wait()
    await admin.close()
    await viewer.close()
    if fleet is not None:
        await fleet.close()


def _fleet_reader(config: Config) -> FleetReader | None:
    if config.spool.transport == "local":
        return None
    from proxy.fleet_app import FleetReader

    return FleetReader(config)
