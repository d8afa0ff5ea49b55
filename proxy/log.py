"""Log: one line per event on stdout, as JSON or for a terminal.

Logging never holds up the work: lines go through a bounded queue to a thread of their own; what a
blocked reader of stdout leaves no room for is dropped and counted. Every foreign string is escaped,
so that nobody can forge a line or drive a terminal. Lines hold facts and ids, never bodies, header
values or query strings.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import queue
import re
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

import orjson

QUEUE_LINES_MAX = 10_000
LINE_CHARS_MAX = 8_192
STOP_S = 2.0

logger = logging.getLogger("proxy")

# C0, DEL, C1, line and paragraph separators, bidirectional controls, byte order mark.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def escaped(text: str) -> str:
    """The text with every character that could forge a line or drive a terminal made visible."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_line(value: Any) -> str:
    """Any value as JSON on one line that a terminal may show; what JSON lacks becomes text."""
    try:
        text = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # integers beyond 64 bits, nesting beyond 254 levels, lone surrogates
        text = json.dumps(value, default=str, separators=(",", ":"), ensure_ascii=False)
    return escaped(text)  # all of it stands in JSON's strings, which stay what they are


def event(name: str, level: int = logging.INFO, /, **fields: Any) -> None:
    """Log one event. Fields that are None are left out.

    `line` is what a terminal shows instead; where it is a function, only a terminal calls it.
    """
    if logger.isEnabledFor(level):
        given = {key: value for key, value in fields.items() if value is not None}
        logger.log(level, name, extra={"fields": given})


def describe(error: BaseException) -> str:
    """An error of our own code without its text, which may quote other people's data."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def flush() -> None:
    """Wait until the lines so far are written; not for long, stdout may be blocked."""
    deadline = time.monotonic() + STOP_S
    for handler in logging.getLogger().handlers:
        while isinstance(handler, _Dropping) and handler.lines.unfinished_tasks:
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)


class Writer(logging.handlers.QueueListener):
    """The thread that writes lines."""

    is_blocked = False  # after `stop`: a line is still being written

    def stop(self) -> None:
        """Write what waits and end; a reader that blocks stdout is not waited for."""
        thread = self._thread
        if thread is None:
            return
        with contextlib.suppress(queue.Full):
            self.enqueue_sentinel()
        thread.join(STOP_S)
        self._thread = None
        self.is_blocked = thread.is_alive()

    def enqueue_sentinel(self) -> None:
        """Raises queue.Full where nothing is read for a while."""
        self.queue.put(self._sentinel, timeout=STOP_S)  # type: ignore[attr-defined]  # the library's own name


def leave(writer: Writer) -> None:
    """End logging, as the last thing that a process does.

    Where stdout is still blocked the process ends here: the interpreter's own way out waits for
    the lock of that stream.
    """
    writer.stop()
    if writer.is_blocked:
        os._exit(1 if sys.exc_info()[0] else 0)


class Settings(Protocol):
    """What of the configuration's `log` is asked here."""

    @property
    def format(self) -> str: ...
    @property
    def level(self) -> str: ...


def configure(settings: Settings, stream: TextIO | None = None) -> Writer:
    """Start logging for this process; the caller stops the writer at the end."""
    stream = stream or sys.stdout
    is_console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    output = logging.StreamHandler(stream)
    output.setFormatter(_Console() if is_console else _JsonLines())
    lines: queue.Queue[Any] = queue.Queue(QUEUE_LINES_MAX)
    listener = Writer(lines, output)
    logging.basicConfig(handlers=[_Dropping(lines)], level=logging.WARNING, force=True)
    logger.setLevel(settings.level.upper())
    for name in ("aiohttp", "asyncio"):  # their texts may quote requests
        logging.getLogger(name).setLevel(logging.CRITICAL)
    listener.start()
    return listener


class _Dropping(logging.handlers.QueueHandler):
    """A queue handler that drops and counts where the queue is full."""

    def __init__(self, lines: queue.Queue[Any]) -> None:
        super().__init__(lines)
        self.lines = lines
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            if self.dropped and not self.lines.full():
                record.__dict__.setdefault("fields", {})["log_lines_dropped"] = self.dropped
                self.dropped = 0
            self.lines.put_nowait(record)
        except queue.Full:
            self.dropped += 1


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = record.__dict__.get("fields", {})
    return fields


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": escaped(record.getMessage()),
            **{key: _limited(value) for key, value in _fields(record).items() if key != "line"},
        }
        return json_line(line)


class _Console(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        if (line := fields.get("line")) is not None:  # by a view, for people
            return str(line() if callable(line) else line)
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        rest = " ".join(f"{key}={_limited(value)}" for key, value in fields.items())
        return escaped(f"{time} {mark}{record.getMessage()} {rest}".rstrip())


def _limited(value: Any) -> Any:
    return escaped(value)[:LINE_CHARS_MAX] if isinstance(value, str) else value
