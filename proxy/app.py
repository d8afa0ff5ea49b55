"""App: where the roles behind the gateway are built, started and stopped.

Each role is one function that runs in a process of its own: `run_forwarder`, `run_recorder`,
`run_admin`, and `run_gateway` in `proxy/gateway_app.py`. `proxy/supervise.py` runs them all on one
machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

from proxy import __version__
from proxy.addresses import base_urls
from proxy.admin.server import AdminServer
from proxy.config import Config
from proxy.enrich.digests import Digests
from proxy.linker import Linker
from proxy.live import Live
from proxy.log import event
from proxy.metrics import LinkerMetrics, RecorderMetrics, TracingMetrics
from proxy.otel.installed import check_installed
from proxy.pages import Pages
from proxy.probe import gateway_answers
from proxy.reading import dsn_of, is_ready
from proxy.recorder import Recorder
from proxy.retention import Retention
from proxy.rollup import Rollup
from proxy.running import run
from proxy.source import LocalSource, Source
from proxy.spool.totals import read_totals, summed
from proxy.stopping import stop_event, until_stopped
from proxy.store.links import LinkStore
from proxy.store.migrate import migrate
from proxy.store.postgres import Store
from proxy.store.viewer import Viewer
from proxy.tasks import end
from proxy.tracing import Tracing

if TYPE_CHECKING:
    from proxy.fleet_app import FleetReader

NICENESS = 10  # of the recorder: a tenth of the processor's time where the gateway wants it all
FLUSH_S = 5.0  # how long a recorder that is asked to stop works on what is in the spool


def run_recorder(config: Config, lifeline: int | None) -> None:
    """Move rows from the spool to the database until asked to stop.

    It has less right to the processor than the gateway: what agents wait for comes first.
    """
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    run(config, lambda: _recorder(config, lifeline))


def run_forwarder(config: Config, lifeline: int | None) -> None:
    """Move calls from the spool to the stream until asked to stop."""
    from proxy.fleet_app import forwarder

    run(config, lambda: forwarder(config, lifeline))


def run_admin(config: Config, sock: socket.socket, lifeline: int | None) -> None:
    """Serve health and metrics until asked to stop."""
    run(config, lambda: _admin(config, sock, lifeline))


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
    await end((*tasks, waiting))
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
