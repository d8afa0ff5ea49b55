"""Disk: what a power cut may leave of the files under one directory.

Every change that a process makes there is noted as it is made. From the notes a state of the disk
is built for a cut at any moment: what was synced is there; of later writes to a file any may be
missing or torn, with zeros before those that are there; files appear, vanish and change their names
in the order in which that was asked for, up to some moment after the last sync (file systems keep a
journal of such changes, which any sync writes out).
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Change:
    """`what` is create, unlink, rename, write, size or sync; a file is known by a number."""

    what: str
    file: int = -1
    name: str = ""
    to: str = ""  # of a rename
    offset: int = 0  # of a write; of a size, the size
    data: bytes = b""


def _real(*names: str) -> dict[str, Callable[..., Any]]:
    return {name: getattr(os, name) for name in names}


class Disk:
    """Notes what happens under `root` while it is installed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes: list[Change] = []
        self._names: dict[str, int] = {}
        self._opened: dict[int, int] = {}
        self._files = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name, function in (self._watching_names() | self._watching_contents()).items():
            patch.setattr(os, name, function)

    def _watching_names(self) -> dict[str, Callable[..., object]]:
        real = _real("open", "close", "unlink", "rename")

        def opened(path, flags, *mode, **named):
            fd = real["open"](path, flags, *mode, **named)
            name = self._name(path)
            if name is not None and flags & (os.O_WRONLY | os.O_RDWR):
                self._opened[fd] = self._known(name)
            return fd

        def closed(fd):
            self._opened.pop(fd, None)
            real["close"](fd)

        def unlinked(path, **named):
            real["unlink"](path, **named)
            self._names.pop(self._name(path), None)
            self._note(Change("unlink", name=self._name(path)))

        def renamed(old, new):
            real["rename"](old, new)
            names = self._name(old), self._name(new)
            self._names[names[1]] = self._names.pop(names[0])
            self._note(Change("rename", name=names[0], to=names[1]))

        return {"open": opened, "close": closed, "unlink": unlinked, "rename": renamed}

    def _watching_contents(self) -> dict[str, Callable[..., object]]:
        writes, syncs = ("writev", "write", "pwrite"), ("fsync", "fdatasync")
        real = _real("ftruncate", "posix_fallocate", *writes, *syncs)

        def written(name):
            def write(fd, data, *where):
                offset = where[0] if where else os.fstat(fd).st_size
                count = real[name](fd, data, *where)
                whole = b"".join(data) if name == "writev" else bytes(data)
                self._of(fd, "write", offset, whole[:count])
                return count

            return write

        def sized(fd, size):
            real["ftruncate"](fd, size)
            self._of(fd, "size", size)

        def allocated(fd, offset, size):
            real["posix_fallocate"](fd, offset, size)
            self._of(fd, "size", offset + size)

        def synced(name):
            def sync(fd):
                real[name](fd)
                self._note(Change("sync", self._opened.get(fd, -1)))

            return sync

        return {
            "ftruncate": sized,
            "posix_fallocate": allocated,
            **{name: written(name) for name in writes},
            **{name: synced(name) for name in syncs},
        }

    def _name(self, path: object) -> str | None:
        where = Path(os.fsdecode(path))  # type: ignore[arg-type]  # a path, as `os` takes it
        return str(where.relative_to(self.root)) if where.is_relative_to(self.root) else None

    def _known(self, name: str) -> int:
        if name not in self._names:
            self._names[name] = self._files
            self._note(Change("create", self._files, name))
            self._files += 1
        return self._names[name]

    def _of(self, fd: int, what: str, offset: int, data: bytes = b"") -> None:
        if fd in self._opened:
            self._note(Change(what, self._opened[fd], offset=offset, data=data))

    def _note(self, change: Change) -> None:
        self.changes.append(change)

    def cut(self, at: int, chance: random.Random, target: Path) -> None:
        """Build under `target` what a power cut after the first `at` changes may have left."""
        before = self.changes[:at]
        synced = [n for n, change in enumerate(before) if change.what == "sync"]
        listed = chance.randint(synced[-1] + 1 if synced else 0, at)
        mood = chance.choice(["all", "none", "any"])
        for name, file in _names(before[:listed]).items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_content(before, file, mood, chance))


def _names(changes: list[Change]) -> dict[str, int]:
    names: dict[str, int] = {}
    for change in changes:
        match change.what:
            case "create":
                names[change.name] = change.file
            case "unlink":
                names.pop(change.name, None)
            case "rename":
                names[change.to] = names.pop(change.name)
    return names


def _content(changes: list[Change], file: int, mood: str, chance: random.Random) -> bytes:
    own = [(n, change) for n, change in enumerate(changes) if change.file == file]
    sure = max((n for n, change in own if change.what == "sync"), default=-1)
    data = bytearray()
    for number, change in own:
        kept = 1.0
        if number > sure:
            kept = {"all": 1.0, "none": 0.0}.get(mood, chance.choice([0.0, 0.5, 1.0, 1.0]))
        if change.what == "size" and kept:
            del data[change.offset :]
            data.extend(bytes(change.offset - len(data)))
        elif change.what == "write" and kept:
            part = change.data[: int(len(change.data) * kept)]
            data.extend(bytes(max(0, change.offset - len(data))))
            data[change.offset : change.offset + len(part)] = part
    return bytes(data)
