"""What could not be read, in words, each once with its count.

A collector handed through one decoding. It never grows beyond a few lines, whatever is decoded.
"""

from __future__ import annotations

KINDS_MAX = 20  # a body that is wrong in more ways than this is wrong throughout


class Problems:
    """Problems of one body, in the order in which they were first seen."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, text: str) -> None:
        if text in self._counts or len(self._counts) < KINDS_MAX:
            self._counts[text] = self._counts.get(text, 0) + 1

    def as_tuple(self) -> tuple[str, ...]:
        return tuple(
            text if count == 1 else f"{text} ({count} times)"
            for text, count in self._counts.items()
        )
