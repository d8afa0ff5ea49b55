"""A provider, or a receiver, of the test's own on a port of loopback."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
SHUTDOWN_S = 0.1  # for a connection that somebody keeps


@asynccontextmanager
async def serving(served: Handler | web.Application, port: int = 0) -> AsyncIterator[str]:
    """Serve an application, or one handler whatever is asked for; gives the address."""
    if isinstance(served, web.Application):
        runner: web.BaseRunner = web.AppRunner(served, shutdown_timeout=SHUTDOWN_S)
    else:
        runner = web.ServerRunner(web.Server(served), shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
