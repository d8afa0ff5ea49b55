"""Tracked: a call that was found in a slot and is not settled, held as positions, not as bytes."""

from __future__ import annotations

from array import array

from proxy.exchange import Start
from proxy.spool.segment import Found


class Tracked:
    """Where the records of one call lie: first those that were carried, then the positions.

    Of a socket also how far it has been delivered; see `sockets`.
    """

    __slots__ = (
        "carried_bytes",
        "carried_read",
        "delivered_parts",
        "first_segment",
        "has_file",
        "is_damaged",
        "is_over",
        "is_socket",
        "key",
        "next_part",
        "pins",
        "positions",
        "positions_read",
        "refusals",
        "sequence",
        "size_bytes",
        "start",
    )

    def __init__(self, key: bytes, sequence: int, first_segment: int) -> None:
        self.key = key
        self.sequence = sequence
        self.first_segment = first_segment
        self.has_file = False  # of its own, perhaps: something may have been carried
        self.carried_bytes = 0  # of that file, what counts; see `carry`
        self.positions = array("Q")  # segment << 32 | offset, in order
        self.pins: set[int] = set()  # segments that are needed until it is settled
        self.next_part = 0
        self.is_damaged = False
        self.refusals = 0  # of the disk, to give records of it back
        self.size_bytes = 0
        self.is_socket = False
        self.is_over = False
        self.start: Start | None = None
        self.delivered_parts = 0
        self.carried_read = 0
        self.positions_read = 0

    @property
    def is_delivered(self) -> bool:
        """Of a socket: whether everything that is known has been delivered."""
        return self.carried_read >= self.carried_bytes and self.positions_read >= len(
            self.positions
        )

    def carry(self, carried_bytes: int) -> None:
        """The records at all positions have been copied to the end of the call's own file."""
        if self.is_delivered:
            self.carried_read = carried_bytes
        self.carried_bytes = carried_bytes
        self.positions_read = 0
        del self.positions[:]
        self.pins.clear()

    def meet(self, item: Found) -> bool:
        """Note the next record; False where it is known from the call's own file already."""
        part = item.header.part
        if part < self.next_part:
            return False
        self.is_damaged |= part > self.next_part or not item.is_good
        self.next_part = part + 1
        self.size_bytes += item.header.length
        return True

    def add(self, number: int, item: Found) -> None:
        """The next record lies in this segment."""
        if self.meet(item):
            self.pins.add(number)
            if item.is_good:
                self.positions.append(number << 32 | item.offset)
