"""Tripwire: notes every address that this process connects to or asks DNS for.

Python tells each of them as an audit event; a hook stays for the life of the process, so there is
one, and it listens only while asked to.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_noted: list[tuple[object, object]] | None = None


def _on_event(name: str, arguments: tuple[object, ...]) -> None:
    if _noted is None:
        return
    if name == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple):
            _noted.append((address[0], address[1]))
    elif name == "socket.getaddrinfo":
        _noted.append((arguments[0], arguments[1]))


sys.addaudithook(_on_event)


@contextmanager
def noting() -> Iterator[list[tuple[object, object]]]:
    """The list that (host, port) pairs go to meanwhile."""
    global _noted
    _noted = []
    try:
        yield _noted
    finally:
        _noted = None
