"""Tasks: how those that run beside something are heard where they fail, and ended.

One cancellation is not enough. `asyncio.wait_for` before Python 3.12 drops it where the answer
comes in the same moment, the client of NATS takes its own for others', and what fails while a task
is unwound, a rollback over a lost connection for example, takes its place. A task that works in a
loop would go on for ever, and so would whoever waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

from proxy.log import event

AGAIN_S = 0.25


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel these until they have ended, by whatever."""
    tasks = list(tasks)
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # else asyncio says that nobody asked for it


async def within(seconds: float, work: Coroutine[Any, Any, None], what: str) -> None:
    """Wait for a part of a stop, but not for longer: what it needs may never answer again."""
    task = asyncio.create_task(work, name=what)
    await asyncio.wait({task}, timeout=seconds)
    if task.done():
        return task.result()
    event("stopping without an answer", logging.WARNING, waited_for=what, seconds=seconds)
    await end([task])


def raise_ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """The error of the first of these that has ended by one."""
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()
