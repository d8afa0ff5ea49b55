"""Slot: the directory of one writer, its files and who holds it.

    spool/                     0700
      recorder.lock            held by the one process that reads
      0/                       0700, one slot per writer; files 0600
        lock                   held (flock) by the slot's writer for as long as it lives
        captured               page: what the writer counts
        reserve                space that a full disk still has for heads and ends
        00000001.seg …         segments; the last one is never deleted
        0192….call               what was carried of a call that is open for long (`carry`)
        acks                   journal: what the recorder has dealt with
        settled                page: what the recorder counts
        resubmitted            ids, 16 bytes each: set aside once and stored since (`resubmitted`)

`flock` is released by the kernel however a process ends, so a restarted writer takes its old slot
over and a second instance gets one of its own. Whatever else lies here (links, directories, pipes,
other names) is left alone. Never on a network file system.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from pathlib import Path

from proxy.errors import SpoolUnusable

LOCK, CAPTURED, SETTLED, ACKS, RESERVE = "lock", "captured", "settled", "acks", "reserve"
RESUBMITTED, ID_BYTES = "resubmitted", 16
RECORDER_LOCK = "recorder.lock"
SLOTS_MAX = 1024
_LOCK_TRIES, _LOCK_PAUSE_S = 5, 0.001
_SLOT = re.compile(r"0|[1-9][0-9]{0,3}")
_SEGMENT = re.compile(r"([0-9]{8,9})\.seg")


def make_root(root: Path) -> None:
    """Raises SpoolUnusable where the directory cannot be made."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SpoolUnusable(
            f"{root}: {error.strerror}; choose a directory that this user can write"
        ) from error


def take_slot(root: Path) -> tuple[Path, int]:
    """The first slot that no living writer holds, with its lock's descriptor.

    Raises SpoolUnusable where the directory cannot be used.
    """
    make_root(root)
    for number in range(SLOTS_MAX):
        slot = root / str(number)
        try:
            slot.mkdir(mode=0o700, exist_ok=True)
            if not stat.S_ISDIR(slot.lstat().st_mode):
                continue
            fd = lock(slot / LOCK)
        except FileExistsError:
            continue  # a file of that name is not ours
        except OSError as error:
            raise SpoolUnusable(
                f"{slot}: {error.strerror}; choose a local directory that this user can write"
            ) from error
        if fd is not None:
            return slot, fd
    raise SpoolUnusable(f"{root}: all {SLOTS_MAX} slots are held by living writers")


def lock(path: Path) -> int | None:
    """Take the lock; its descriptor, or None where another process holds it. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)  # `is_held` may be looking for an instant
        except OSError:
            os.close(fd)
            raise
    os.close(fd)
    return None


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock. Where that cannot be told, it does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def slots(root: Path) -> list[int]:
    """The slots in `root`, in order."""
    try:
        with os.scandir(root) as entries:
            return sorted(
                int(entry.name)
                for entry in entries
                if _SLOT.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []


def segments(slot: Path) -> list[int]:
    """The numbers of the slot's segments, in order; none where they cannot be listed."""
    try:
        return list_segments(slot)
    except OSError:
        return []


def list_segments(slot: Path) -> list[int]:
    """The numbers of the slot's segments, in order. Raises OSError."""
    names = os.listdir(slot)
    return sorted({int(match[1]) for name in names if (match := _SEGMENT.fullmatch(name))})


def segment_path(slot: Path, number: int) -> Path:
    return slot / f"{number:08}.seg"


def resubmitted(slot: Path) -> int:
    """How many of the slot's calls were set aside and are stored now."""
    try:
        return (slot / RESUBMITTED).lstat().st_size // ID_BYTES
    except OSError:
        return 0


def disk_bytes(slot: Path) -> int:
    """What the slot's files take: their lengths, holes and the reserve left out."""
    total = 0
    try:
        with os.scandir(slot) as entries:
            for entry in entries:
                if entry.name == RESERVE:
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # deleted meanwhile
                total += min(status.st_size, status.st_blocks * 512)
    except OSError:
        return total
    return total
