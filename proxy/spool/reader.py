"""Reader: hands the recorder each call once it has ended, and forgets it when told to.

One process reads a spool at a time. Calls come slot by slot in the order in which they ended; one
that was delivered and not acknowledged is delivered again after a restart. Nothing waits here and
nothing that lies in the directory raises: looking for news costs a directory listing per slot.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID

from proxy.errors import SpoolUnusable
from proxy.exchange import Exchange
from proxy.spool import slot
from proxy.spool.follower import SlotFollower
from proxy.spool.journal import State
from proxy.spool.load import Windows, load
from proxy.spool.sockets import SocketDelivery, next_part
from proxy.spool.totals import Loss
from proxy.spool.tracked import Tracked

Settlement = Literal["stored", "quarantined", "lost"]
_STATES = {"stored": State.STORED, "quarantined": State.QUARANTINED, "lost": State.LOST}


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One call, and what acknowledging it needs. Equal only to itself."""

    exchange: Exchange
    is_damaged: bool  # records of it are missing
    slot: int
    tracked: Tracked

    @property
    def id(self) -> UUID:
        return self.exchange.start.id


class SpoolReader:
    """The one reader of the spool at `root`. Raises SpoolUnusable where another process reads."""

    def __init__(self, root: Path) -> None:
        slot.make_root(root)
        self._root = root
        try:
            fd = slot.lock(root / slot.RECORDER_LOCK)
        except OSError as error:
            raise SpoolUnusable(
                f"{root}: {error.strerror}; choose a local directory that this user can write"
            ) from error
        if fd is None:
            raise SpoolUnusable(f"{root}: another recorder reads this spool; run only one")
        self._lock = fd
        self._followers: dict[int, SlotFollower] = {}
        self._turn = 0

    def read(self, max_exchanges: int, max_bytes: int) -> list[Delivery]:
        """Calls that have ended: at most so many, and no further one once they hold `max_bytes`."""
        found: list[Delivery] = []
        room_bytes = max_bytes
        numbers = self._in_turn()
        for index, number in enumerate(numbers):
            share = -(-(max_exchanges - len(found)) // (len(numbers) - index))
            for delivery in self._read_slot(number, share):
                found.append(delivery)
                room_bytes -= delivery.tracked.size_bytes
                if room_bytes <= 0:
                    return found
        return found

    def read_sockets(self, max_parts: int) -> list[SocketDelivery]:
        """What has come of open sockets since the last time, as far as `read` has met it.

        A part is never given again to this reader. Only the last one is acknowledged.
        """
        found: list[SocketDelivery] = []
        for number, follower in self._followers.items():
            for call in list(follower.news.values())[: max_parts - len(found)]:
                part = next_part(follower.path, call)
                if call.is_delivered:
                    del follower.news[call.key]
                if part is not None:
                    found.append(SocketDelivery(part, call.is_damaged, number, call))
                elif call.is_over:
                    follower.settle([call], State.LOST, Loss.DAMAGED)
        return found

    def acknowledge(
        self, deliveries: Iterable[Delivery | SocketDelivery], state: Settlement = "stored"
    ) -> None:
        """These calls are dealt with and never delivered again."""
        by_slot: dict[int, list[Tracked]] = {}
        for delivery in deliveries:
            by_slot.setdefault(delivery.slot, []).append(delivery.tracked)
        for number, calls in by_slot.items():
            self._followers[number].settle(calls, _STATES[state])

    def close(self) -> None:
        """Give the spool free. What was not acknowledged is delivered to the next reader."""
        for follower in self._followers.values():
            follower.close()
        self._followers.clear()
        os.close(self._lock)

    def _in_turn(self) -> list[int]:
        """The slots, beginning with another one each time."""
        for number in slot.slots(self._root):
            if number not in self._followers:
                try:
                    self._followers[number] = SlotFollower(self._root / str(number))
                except OSError:
                    continue  # not ours, or no descriptor or space now: tried again next time
        numbers = sorted(self._followers)
        self._turn = (self._turn + 1) % max(1, len(numbers))
        return numbers[self._turn :] + numbers[: self._turn]

    def _read_slot(self, number: int, wanted: int) -> Iterator[Delivery]:
        follower = self._followers[number]
        with Windows(follower.path) as windows:
            for done in range(wanted):
                if not follower.ready:
                    follower.advance(wanted - done)
                if not follower.ready:
                    break
                call = follower.ready.popleft()
                try:
                    exchange, is_damaged = load(windows, call)
                except OSError:
                    follower.ready.append(call)  # behind the others, which may be readable
                    break
                if exchange is None:
                    follower.settle([call], State.LOST, Loss.DAMAGED)
                else:
                    yield Delivery(exchange, is_damaged, number, call)
        follower.flush()
