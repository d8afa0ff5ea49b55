"""Crash: what a process of ours leaves behind where an error is caught by nobody.

One line with the error's type and place. Never its text, which may quote a prompt, a key or a
connection string, never a traceback's source lines, and no memory image: core files are off, and on
Linux other processes of the same user cannot read memory or environment. A developer who sets
AGENT_TELEMETRY_DEBUG gets Python's own behaviour instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import resource
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from proxy.environment import is_debugging
from proxy.log import describe, event

if TYPE_CHECKING:
    import asyncio

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def be_discreet() -> None:
    """For the whole process, from here on."""
    if is_debugging():
        return
    sys.excepthook = _on_exception
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread
    logging.raiseExceptions = False  # else a log line that cannot be formatted is printed whole
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An event loop's handler of what no task or callback caught."""
    error = context.get("exception")
    _tell("event loop", error if isinstance(error, BaseException) else None)


def _on_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    print(f"agent-telemetry: internal error: {describe(error)}", file=sys.stderr)  # noqa: T201  the process ends with it


def _on_unraisable(found: sys.UnraisableHookArgs) -> None:
    _tell("finaliser", found.exc_value)


def _on_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_type is not SystemExit:
        _tell("thread", found.exc_value)


def _tell(where: str, error: BaseException | None) -> None:
    event(
        "an error that nothing caught",
        logging.ERROR,
        where=where,
        error=describe(error) if error else None,
    )
