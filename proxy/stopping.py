"""Stopping: how a process learns that it is to stop, and how it waits for something until then."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from proxy.errors import (
    SpoolUnusable,
    StoreMisconfigured,
    StoreUnavailable,
    StreamMisconfigured,
    StreamUnavailable,
)
from proxy.log import event

T = TypeVar("T")

START_RETRY_MAX_S = 1.0
QUIET_S = 5.0
_PASSING = (StoreUnavailable, StreamUnavailable)
_TO_BE_MENDED = (StoreMisconfigured, StreamMisconfigured, SpoolUnusable)


def stop_event(lifeline: int | None) -> asyncio.Event:
    """Set by SIGTERM, SIGINT, or the end of the supervisor (its end of a pipe closes).

    Under a supervisor SIGINT is for that alone, though a terminal sends it to all: it knows the
    order in which to stop.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if lifeline is None:
        loop.add_signal_handler(signal.SIGINT, stop.set)
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

        def ended() -> None:
            loop.remove_reader(lifeline)
            stop.set()

        os.set_blocking(lifeline, False)
        loop.add_reader(lifeline, ended)
    return stop


async def until_stopped(
    stop: asyncio.Event, attempt: Callable[[], Coroutine[Any, Any, T]], who: str = "recorder"
) -> T | None:
    """Try until it works or the process is asked to stop (None). Says each new reason once.

    A database that is only just starting beside us is no news.
    """
    said, pause_s, quiet_until = "", 0.1, time.monotonic() + QUIET_S
    while not stop.is_set():
        try:
            return await attempt()
        except (*_PASSING, *_TO_BE_MENDED) as error:
            if str(error) != said and time.monotonic() > quiet_until:
                said = str(error)
                event(f"{who} waits", logging.WARNING, reason=said)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)
        pause_s = min(START_RETRY_MAX_S, pause_s * 2)
    return None
