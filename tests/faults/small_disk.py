"""Small disk: a file system of a few megabytes, of its own and really full."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(where: Path, size: str, owner: int = 0) -> Iterator[Path]:
    """`where` as a file system of that size, closed to all but its owner; else skips."""
    options = f"size={size},mode=700,uid={owner or os.getuid()}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small file system needs a right that this user lacks")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


def enlarge(where: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", where], check=True)
