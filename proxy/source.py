"""Source: where a recorder's calls come from.

One small interface between whatever keeps captured exchanges and who works on them: read, look
into, acknowledge. `LocalSource` is the spool of this machine. Its sockets are cut into calls
here, as their parts are looked into.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import UUID

from proxy.exchange import Exchange
from proxy.record import DAMAGED
from proxy.sockets import CutCall, OpenSockets
from proxy.spool import reader as spool
from proxy.spool.reader import SpoolReader
from proxy.spool.sockets import SocketDelivery

PARTS_MAX = 4  # given at a time: a part may have 8 MiB


class Delivery(Protocol):
    """What was captured and has to be acknowledged. Equal only to itself."""

    @property
    def id(self) -> UUID: ...  # of the captured exchange
    @property
    def size_bytes(self) -> int: ...
    @property
    def exchange(self) -> Exchange | None: ...  # None: a part of a socket
    def calls(self) -> list[CutCall]:
        """The calls that ended with it: itself, or any number. Other people's bytes."""


class Source(Protocol):
    """One of several, or the only one, that reads what was captured."""

    async def read(self, calls_max: int, bytes_max: int) -> Sequence[Delivery]:
        """What has ended and is there now; no further one once they hold `bytes_max`."""

    async def acknowledge(
        self, stored: Sequence[Delivery], set_aside: Sequence[Delivery] = ()
    ) -> None:
        """These are dealt with and never given again."""

    def is_last(self, delivery: Delivery) -> bool:
        """Where `read` gives nothing: whether all that was captured before it has been given."""

    async def close(self) -> None:
        """What was not acknowledged is given to another."""


@dataclass(frozen=True, slots=True, eq=False)
class _Whole:
    """A call of the spool."""

    found: spool.Delivery

    @property
    def id(self) -> UUID:
        return self.found.id

    @property
    def size_bytes(self) -> int:
        return self.found.tracked.size_bytes

    @property
    def exchange(self) -> Exchange:
        return self.found.exchange

    def calls(self) -> list[CutCall]:
        damage = (DAMAGED,) if self.found.is_damaged else ()
        return [CutCall(self.found.exchange, damage)]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A part of a socket of the spool."""

    found: SocketDelivery
    sockets: OpenSockets
    exchange: None = None

    @property
    def id(self) -> UUID:
        return self.found.id

    @property
    def size_bytes(self) -> int:
        return sum(len(piece.data) for piece in self.found.part.pieces)

    def calls(self) -> list[CutCall]:
        return self.sockets.calls(self.found)


class LocalSource:
    """The spool at `root`. Raises SpoolUnusable where another process reads it."""

    def __init__(self, root: Path, message_bytes_max: int) -> None:
        self._reader = SpoolReader(root)
        self._sockets = OpenSockets(message_bytes_max)
        self._given: Counter[UUID] = Counter()  # parts of a socket that are not dealt with
        self._last: dict[UUID, SocketDelivery] = {}

    async def read(self, calls_max: int, bytes_max: int) -> list[Delivery]:
        """Calls that have ended, then what came of open sockets."""
        found: list[Delivery] = [*map(_Whole, self._reader.read(calls_max, bytes_max))]
        for part in self._reader.read_sockets(PARTS_MAX):
            self._given[part.id] += 1
            found.append(_Part(part, self._sockets))
        return found

    async def acknowledge(
        self, stored: Sequence[Delivery], set_aside: Sequence[Delivery] = ()
    ) -> None:
        """A socket is settled when all its parts have been, and set aside if any of them was."""
        for delivery in set_aside:
            self._sockets.refuse(delivery.id)
        good: list[spool.Delivery | SocketDelivery] = []
        bad: list[spool.Delivery | SocketDelivery] = []
        for delivery in dict.fromkeys((*stored, *set_aside)):
            settled = self._settled(delivery)
            if settled is not None:
                (good if self._sockets.close(delivery.id) else bad).append(settled)
        self._reader.acknowledge(good)
        if bad:
            self._reader.acknowledge(bad, state="quarantined")

    def _settled(self, delivery: Delivery) -> spool.Delivery | SocketDelivery | None:
        """What the spool may forget now that this has been dealt with."""
        if isinstance(delivery, _Whole):
            return delivery.found
        if not isinstance(delivery, _Part):
            return None
        if delivery.found.part.is_last:
            self._last[delivery.id] = delivery.found
        self._given[delivery.id] -= 1
        if self._given[delivery.id] or delivery.id not in self._last:
            return None
        del self._given[delivery.id]
        return self._last.pop(delivery.id)

    def is_last(self, delivery: Delivery) -> bool:
        return True

    async def close(self) -> None:
        self._reader.close()
