"""Stopping: how a process learns that it is to stop, waits for something until then, and ends.

Every wait on the way out has a limit of its own. What is forgotten, what hangs in a thread and what
a library does not let go of has this one: the process ends after `STOP_S`, and says where it
stood. Nothing is lost by that: what was not acknowledged is given again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

from proxy.errors import (
    SpoolUnusable,
    StoreMisconfigured,
    StoreUnavailable,
    StreamMisconfigured,
    StreamUnavailable,
)
from proxy.log import event, flush
from proxy.tasks import end

T = TypeVar("T")

STOP_S = 20.0  # a supervisor waits half of it, Kubernetes by default 30
START_RETRY_MAX_S = 1.0
QUIET_S = 5.0
_PASSING = (StoreUnavailable, StreamUnavailable)
_TO_BE_MENDED = (StoreMisconfigured, StreamMisconfigured, SpoolUnusable)


def stop_event(lifeline: int | None, limit_s: float | None = None) -> asyncio.Event:
    """Set by SIGTERM, SIGINT, SIGHUP, or the end of the supervisor (its end of a pipe closes).

    From then on the process has `limit_s`, `STOP_S` if None, to end by itself.

    Under a supervisor SIGINT and SIGHUP are for that alone, though a terminal sends them to all: it
    knows the order in which to stop. A SIGHUP that is ignored, as `nohup` has it, stays so.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    limit = threading.Timer(STOP_S if limit_s is None else limit_s, _give_up, [loop])
    limit.daemon = True

    def asked() -> None:
        if limit.ident is None:
            limit.start()
        stop.set()

    def hung_up() -> None:
        """Both the terminal and its shell may say so: that is not asked twice."""
        if limit.ident is None:
            asked()

    loop.add_signal_handler(signal.SIGTERM, asked)
    if lifeline is None:
        loop.add_signal_handler(signal.SIGINT, asked)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, hung_up)
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

        def ended() -> None:
            loop.remove_reader(lifeline)
            asked()

        os.set_blocking(lifeline, False)
        loop.add_reader(lifeline, ended)
    return stop


async def until_stopped(
    stop: asyncio.Event, attempt: Callable[[], Coroutine[Any, Any, T]], who: str = "recorder"
) -> T | None:
    """Try until it works or the process is asked to stop (None). Says each new reason once.

    An attempt that is under way then is given up: what it waits for may never answer.

    A database that is only just starting beside us is no news.
    """
    said, pause_s, quiet_until = "", 0.1, time.monotonic() + QUIET_S
    while not stop.is_set():
        try:
            return await _unless(stop, attempt())
        except (*_PASSING, *_TO_BE_MENDED) as error:
            if str(error) != said and time.monotonic() > quiet_until:
                said = str(error)
                event(f"{who} waits", logging.WARNING, reason=said)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)
        pause_s = min(START_RETRY_MAX_S, pause_s * 2)
    return None


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What this returns or raises, or None where it was given up."""
    task, asked = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
    await end([asked, *([] if task.done() else [task])])
    return None if task.cancelled() else task.result()


def _give_up(loop: asyncio.AbstractEventLoop) -> None:
    """End the process, on a thread of its own."""
    event(
        "stop took too long; ended",
        logging.ERROR,
        tasks=sorted(_tasks(loop)),
        threads=sorted(_threads()),
    )
    flush()
    os._exit(1)


def _tasks(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """Each with the innermost function that it waits in."""
    for task in asyncio.all_tasks(loop):
        inner: Any = task.get_coro()
        while hasattr(awaited := getattr(inner, "cr_await", None), "cr_frame"):
            inner = awaited
        yield f"{task.get_name()} at {_place(getattr(inner, 'cr_frame', None))}"


def _threads() -> Iterator[str]:
    frames = sys._current_frames()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            yield f"{thread.name} at {_place(frames.get(thread.ident or 0))}"


def _place(frame: FrameType | None) -> str:
    return f"{frame.f_code.co_name}:{frame.f_lineno}" if frame else "its end"
