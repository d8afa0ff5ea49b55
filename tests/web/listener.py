"""The admin listener over a database, in this process, as a browser finds it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from proxy.addresses import base_urls
from proxy.admin.server import AdminServer
from proxy.environment import load
from proxy.live import Live
from proxy.pages import Pages
from proxy.spool.totals import Totals
from proxy.store.viewer import Viewer

SUMS = Totals(captured=10_000, stored=9_990, quarantined=1, lost={"disk_full": 2})


@contextlib.asynccontextmanager
async def listening(tmp_path: Path, dsn: str, **settings: str) -> AsyncIterator[str]:
    """The address of a running listener; `settings` are keys of `admin`."""
    environ = {"AGENT_TELEMETRY__DATA_DIR": str(tmp_path)}
    environ |= {f"AGENT_TELEMETRY__ADMIN__{name}": value for name, value in settings.items()}
    config = load(None, environ)
    config.metrics_dir.mkdir(parents=True, exist_ok=True)

    async def yes() -> bool:
        return True

    viewer = Viewer(dsn)
    pages = Pages(viewer, Live(viewer), base_urls(config), lambda: SUMS, yes)
    sock = socket.create_server(("127.0.0.1", 0))
    server = AdminServer(
        config, spool_sums=lambda: SUMS, store_answers=yes, gateway_answers=yes, pages=pages
    )
    await server.start(sock)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        await server.close()
        await viewer.close()
