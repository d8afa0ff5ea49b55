"""The images of the web page in docs/images, taken of laboratory data: make images.

python -m tests.web.images [DIRECTORY]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from proxy.rollup import Rollup
from proxy.store.embedded import EmbeddedServer
from proxy.store.migrate import migrate
from tests.conftest import FAST
from tests.web import chromium
from tests.web.laboratory import day, fill, multiply
from tests.web.listener import listening
from tests.web.test_browser import pages

WIDE, PHONE = (1280, 900), (380, 820)
IMAGES = {
    "conversations": ("conversations", WIDE, "light"),
    "overview": ("overview", WIDE, "light"),
    "overview-dark": ("overview", WIDE, "dark"),
    "trajectory": ("failed", WIDE, "light"),
    "trajectory-phone": ("failed", PHONE, "light"),
    "live-phone": ("live", PHONE, "dark"),
}


async def take(dsn: str, directory: Path, scratch: Path) -> None:
    """Write every image."""
    now = datetime.now(UTC)
    await migrate(dsn)
    await fill(dsn, day(1000, now, hours=23), now=now)
    await multiply(dsn, 10)
    await Rollup(dsn).round(now)
    paths = await pages(dsn)
    async with listening(scratch, dsn) as address, chromium.chromium() as browser:
        for name, (view, (width, height), theme) in IMAGES.items():
            async with chromium.watched(browser, address, width=width, theme=theme) as seen:
                await seen.page.set_viewport_size({"width": width, "height": height})
                await seen.open(paths[view])
                await seen.page.screenshot(path=directory / f"{name}.png")


def main() -> None:
    if chromium.PATH is None:
        sys.exit(chromium.WHY_NOT)
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    with tempfile.TemporaryDirectory(prefix="agent-telemetry-") as name:
        server = EmbeddedServer(Path(name), FAST)
        try:
            asyncio.run(take(server.start(), directory, Path(name)))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
