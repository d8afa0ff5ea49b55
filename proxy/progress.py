"""Progress: a bar on a terminal, nothing in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import Progress


class Advance(Protocol):
    """Says that some steps are done."""

    def __call__(self, steps: int = 1, /) -> None: ...


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Call what is given as steps are done, `total` altogether."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda steps=1: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda steps=1: bar.advance(task, steps)
