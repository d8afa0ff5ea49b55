"""Running: a process that has one role, from its event loop to its last log line."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine
from typing import Any

from proxy.config import Config
from proxy.crash import on_loop_error
from proxy.log import configure, leave


def run(config: Config, role: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the role to its end, on its own log and event loop."""
    listener = configure(config.log)
    spare_the_collector()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.get_loop().set_exception_handler(on_loop_error)
            runner.run(role())
    finally:
        leave(listener)


def spare_the_collector() -> None:
    """Look for cycles less often, and never in what was made at the start.

    Nearly nothing here is cyclic, and a full pass over the modules takes 20 ms, in the middle of
    some agent's call.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: a fifth less processor time per streamed event."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None
