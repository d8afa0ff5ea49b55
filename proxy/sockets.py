"""Sockets: the recorder's open WebSockets, each cut into calls as its parts are read.

Where the spool's parts meet the decoder's cutter. Nothing is kept on disk here: a new recorder is
given every open socket from its beginning, and the ids of the calls make the rows the same.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from uuid import UUID

from proxy.decode.sockets import Cutter, cutter_of
from proxy.exchange import Exchange
from proxy.log import describe, event
from proxy.spool.sockets import SocketDelivery


@dataclass(frozen=True, slots=True)
class CutCall:
    """A call that ended on a socket, and what could not be read of the socket so far."""

    exchange: Exchange
    problems: tuple[str, ...] = ()


class OpenSockets:
    """Cuts each socket where it was left off."""

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._cutters: dict[UUID, Cutter] = {}
        self._refused: set[UUID] = set()

    def calls(self, delivery: SocketDelivery) -> list[CutCall]:
        """The calls that ended with this part. Never raises."""
        start = delivery.part.start
        cutter = self._cutters.get(start.id)
        if cutter is None:
            cutter = self._cutters[start.id] = cutter_of(start, self._message_bytes_max)
        try:
            exchanges = cutter.take(delivery.part)
        except Exception as error:  # noqa: BLE001  the fence: one socket must not stop the others
            event("socket cannot be cut", logging.ERROR, id=str(start.id), error=describe(error))
            return []
        problems = cutter.problems
        if delivery.is_damaged:
            problems += ("spool: parts of this socket were damaged",)
        return [CutCall(exchange, problems) for exchange in exchanges]

    def refuse(self, id: UUID) -> None:
        """A row of this socket was refused."""
        self._refused.add(id)

    def close(self, id: UUID) -> bool:
        """The last part was dealt with; whether all rows were taken."""
        self._cutters.pop(id, None)
        is_whole = id not in self._refused
        self._refused.discard(id)
        return is_whole
