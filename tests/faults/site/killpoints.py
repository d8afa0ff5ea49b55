"""Kill points: named moments at which a process of the program can be made to kill itself.

The program knows nothing of them. They wrap its functions, and the file operations that single
modules see, as these modules are imported into a process whose environment says so; elsewhere
they cost nothing because they are not there. A point is armed by a file of its name: the first
process that comes by takes the file away and dies of SIGKILL, in the middle of the write where the
point is `torn`.

This module imports nothing of the program, so that every process can load it first.
"""

import functools
import importlib.abc
import importlib.machinery
import inspect
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

# The segment's format: see proxy/spool/segment.py.
KIND_OFFSET = 5
KINDS = {"START": 2, "REQUEST": 3, "HEAD": 4, "RESPONSE": 5, "END": 6}

# Small limits, so that what is rare in production is passed every second. Keyword defaults have a
# parenthesis.
SETTINGS = {
    "proxy.spool.journal": {"ROTATE_BYTES_MIN": 2000},
    "proxy.spool.writer": {"SpoolWriter.__init__(segment_s)": 0.5},
}
if "FAULTS_BATCH_LIMIT_S" in os.environ:
    SETTINGS["proxy.attempts"] = {"LIMIT_S": float(os.environ["FAULTS_BATCH_LIMIT_S"])}
POISONED = "proxy.assemble"


@dataclass(frozen=True)
class Point:
    """`where` names a function, or `os.NAME` as the module sees it; `when` is before, after, torn.

    `kind` restricts a point to records of that kind.
    """

    name: str
    role: str
    module: str
    where: str
    when: str
    kind: str | None = None


def _both(role: str, module: str, where: str) -> list[Point]:
    name = f"{module.removeprefix('proxy.')} {where}"
    return [Point(f"{name} {when}", role, module, where, when) for when in ("before", "after")]


def _torn(role: str, module: str, where: str, kind: str | None = None) -> Point:
    name = f"{module.removeprefix('proxy.')} {where}{' ' + kind if kind else ''} torn"
    return Point(name, role, module, where, "torn", kind)


_WRITER, _SYNC = "proxy.spool.writer", "proxy.spool.sync"
_FOLLOWER, _JOURNAL, _STORE = "proxy.spool.follower", "proxy.spool.journal", "proxy.store.postgres"

POINTS = [
    *(p for name in ("open", "request", "head", "response", "end")
      for p in _both("gateway", "proxy.wire.tap", f"Tap.{name}")),
    *_both("gateway", "proxy.wire.agent", "AgentConnection.send"),
    *(_torn("gateway", _WRITER, "os.writev", kind) for kind in KINDS),
    *_both("gateway", _WRITER, "SpoolWriter.begin"),
    *_both("gateway", _WRITER, "SpoolWriter.finish"),
    *_both("gateway", _WRITER, "SpoolWriter._write_page"),
    *_both("gateway", _WRITER, "SpoolWriter._create"),
    *_both("gateway", _WRITER, "SpoolWriter._retire"),
    *_both("gateway", _WRITER, "SpoolWriter._boot"),
    *_both("gateway", _SYNC, "os.fdatasync"),
    *_both("gateway", _SYNC, "os.close"),
    *_both("recorder", "proxy.spool.reader", "SpoolReader.read"),
    *_both("recorder", "proxy.spool.reader", "load"),
    *_both("recorder", "proxy.recorder", "Recorder._told"),
    *_both("recorder", "proxy.spool.reader", "SpoolReader.acknowledge"),
    *_both("recorder", _FOLLOWER, "SlotFollower._begin"),
    *_both("recorder", _FOLLOWER, "SlotFollower._delete_segments"),
    *_both("recorder", _JOURNAL, "Journal.append"),
    *_both("recorder", _JOURNAL, "Journal.secure"),
    *_both("recorder", _JOURNAL, "Journal.forget"),
    *_both("recorder", _JOURNAL, "Journal._write_page"),
    *_both("recorder", _JOURNAL, "os.rename"),
    _torn("recorder", _JOURNAL, "os.pwrite"),
    _torn("recorder", _JOURNAL, "os.write"),
    *_both("recorder", _STORE, "Store._copied"),
    *_both("recorder", _STORE, "write_beside"),
    *_both("recorder", _STORE, "Store._committed"),
]  # fmt: skip


def install(directory: str) -> None:
    """Wrap what the points name, as its modules are imported."""
    sys.meta_path.insert(0, _Finder(directory))


def arming(directory: str, point: Point) -> str:
    """The path of the file that arms a point."""
    return os.path.join(directory, point.name.replace(" ", "-"))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, directory: str) -> None:
        self._directory = directory

    def find_spec(self, name, path, target=None):
        points = [point for point in POINTS if point.module == name]
        if not points and name not in SETTINGS and name != POISONED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, name, points, self._directory)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader, name: str, points: list[Point], directory: str) -> None:
        self._loader, self._name = loader, name
        self._points, self._directory = points, directory

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module) -> None:
        self._loader.exec_module(module)
        for key, value in SETTINGS.get(self._name, {}).items():
            _set(module, key, value)
        if self._name == POISONED:
            poison(module)
        for point in self._points:
            wrap(module, point, arming(self._directory, point))


def _set(module, key: str, value: object) -> None:
    where, _, argument = key.removesuffix(")").partition("(")
    if argument:
        owner, name = _owner(module, where)
        getattr(owner, name).__kwdefaults__[argument] = value
    else:
        assert hasattr(module, key), key
        setattr(module, key, value)


def wrap(module, point: Point, path: str) -> None:
    """Put the point in place. Raises AttributeError where there is nothing of that name."""
    if point.where.startswith("os.") and not isinstance(module.os, _Os):
        module.os = _Os()
    owner, name = _owner(module, point.where)
    found = owner.__dict__.get(name) if isinstance(owner, type) else None
    function = getattr(owner, name)
    wrapped = _wrapped(function, point, path)
    setattr(
        owner, name, classmethod(_bound(wrapped)) if isinstance(found, classmethod) else wrapped
    )


class _Os:
    """What one module sees as `os`."""

    def __getattr__(self, name: str):
        return getattr(os, name)


def _owner(module, where: str):
    *parts, name = where.split(".")
    return functools.reduce(getattr, parts, module), name


def _bound(wrapped: Callable) -> Callable:
    return lambda cls, *values, **named: wrapped(*values, **named)


def _wrapped(function: Callable, point: Point, path: str) -> Callable:
    if point.when == "torn":
        return _tearing(function, point, path)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def later(*values, **named):
            if point.when == "before":
                _die_if_armed(path)
            result = await function(*values, **named)
            if point.when == "after":
                _die_if_armed(path)
            return result

        return later

    @functools.wraps(function)
    def now(*values, **named):
        if point.when == "before":
            _die_if_armed(path)
        result = function(*values, **named)
        if point.when == "after":
            _die_if_armed(path)
        return result

    return now


def _tearing(function: Callable, point: Point, path: str) -> Callable:
    """A write of which the first half reaches the file before the process dies."""

    def tear(fd: int, data, *where: int):
        pieces = [data] if isinstance(data, bytes) else [bytes(piece) for piece in data]
        whole = b"".join(pieces)
        start, size = (0, len(whole)) if point.kind is None else _place(pieces, KINDS[point.kind])
        if size and _take(path):
            half = whole[: start + size // 2]
            os.pwrite(fd, half, *where) if where else os.write(fd, half)
            _die()
        return function(fd, data, *where)

    return tear


def _place(pieces: list[bytes], kind: int) -> tuple[int, int]:
    """Where the first record of a kind begins in a write, and its length; 0 where there is none."""
    offset = 0
    for header, payload in zip(pieces[::2], pieces[1::2], strict=True):
        if header[KIND_OFFSET] == kind:
            return offset, len(header) + len(payload)
        offset += len(header) + len(payload)
    return 0, 0


def _die_if_armed(path: str) -> None:
    if _take(path):
        _die()


def _take(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def poison(module) -> None:
    """A decoder that ends the process, or hangs, where the request says so."""
    real = module.decode

    def decode(exchange, *rest):
        if b"poison" in exchange.request:
            os._exit(3)
        while b"hanging" in exchange.request:
            pass
        return real(exchange, *rest)

    module.decode = decode
