"""Unread: looks whether agents have left whose connections are not read at the moment.

Of a connection whose reading is paused the loop tells nothing, its end neither. So the system is
asked now and then for all of them, in one call that does not wait. An agent that sends its end is
taken to have left, as it is wherever its connection is read. What is not seen is an end behind
bytes that the system has no room to receive: it comes once enough of them have been read.
"""

from __future__ import annotations

import asyncio
import select

LOOK_S = 1.0
_END = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere POLLHUP, which is always told, says it


class Unread:
    """The connections of one server whose reading is paused. Its timer runs only for those."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._paused: set[asyncio.Transport] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, transport: asyncio.Transport) -> None:
        self._paused.add(transport)
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def discard(self, transport: asyncio.Transport) -> None:
        """It is read again, or gone."""
        self._paused.discard(transport)

    def _look(self) -> None:
        """Abort the connections of those who have left."""
        self._timer = None
        if not self._paused:
            return
        poll, watched = select.poll(), {}
        for transport in self._paused:
            if not transport.is_closing():
                number = transport.get_extra_info("socket").fileno()
                poll.register(number, _END)
                watched[number] = transport
        for number, _ in poll.poll(0):
            watched[number].abort()
        self._timer = self._loop.call_later(LOOK_S, self._look)
