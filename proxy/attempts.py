"""Attempts: which call is being assembled, noted where the next process finds it.

A call whose bytes hang a decoder, exhaust the memory or crash the interpreter takes the recorder
with it. The recorder is a process that may die, so nothing else is put between: whoever starts next
sees which call was in hand. After the third time that call is given up and the others go on.

A batch that takes too long is ended by faulthandler's watchdog, a thread that needs no lock of the
interpreter, so it also works where a library does not come back. It leaves the stack on stderr.
"""

from __future__ import annotations

import contextlib
import faulthandler
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from proxy.spool.page import Page, read_page

TRIES_MAX = 3
LIMIT_S = 60.0  # for a batch
LIMIT_S_PER_MB = 2.0  # redaction and counting of tokens take up to a second each
_BLAMED_MAX = 32  # calls remembered; the page has room for a few more
_WORD = 1 << 64
_NOBODY = UUID(int=0)
_STDERR = 2


class Attempts:
    """The attempts of one recorder at a time, in the page at `path`.

    Without a page, on a full disk for example, it counts within the process only.
    """

    def __init__(self, path: Path) -> None:
        words = read_page(path) or (0, 0)
        self._blamed = {_id(words, at): words[at + 2] for at in range(2, len(words) - 2, 3)}
        if any(words[:2]):
            self._blame(_id(words, 0))
        self._page: Page | None = None
        with contextlib.suppress(OSError):
            self._page = Page(path)
        self._write(_NOBODY)

    def are_spent(self, id: UUID) -> bool:
        """Whether this call took enough recorders with it."""
        return self._blamed.get(id, 0) >= TRIES_MAX

    @contextlib.contextmanager
    def batch(self, size_bytes: int) -> Iterator[None]:
        """Within, the process ends where the work takes too long."""
        limit_s = LIMIT_S + LIMIT_S_PER_MB * size_bytes / 1e6
        faulthandler.dump_traceback_later(limit_s, exit=True, file=_STDERR)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        self._write(_NOBODY)

    @contextlib.contextmanager
    def at(self, id: UUID) -> Iterator[None]:
        """Within, this call is to blame for whatever happens to the process, errors included."""
        self._write(id)
        yield
        self._blamed.pop(id, None)

    def _blame(self, id: UUID) -> None:
        self._blamed[id] = self._blamed.pop(id, 0) + 1
        if len(self._blamed) > _BLAMED_MAX:
            del self._blamed[next(iter(self._blamed))]

    def _write(self, current: UUID) -> None:
        words = [*divmod(current.int, _WORD)]
        for id, count in self._blamed.items():
            words += (*divmod(id.int, _WORD), count)
        if self._page is not None:
            with contextlib.suppress(OSError):
                self._page.write(words)


def _id(words: tuple[int, ...], at: int) -> UUID:
    return UUID(int=words[at] * _WORD + words[at + 1])
