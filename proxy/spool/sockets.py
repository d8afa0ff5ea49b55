"""Sockets: what has come of a recorded WebSocket is handed over while it is open, in parts.

A socket is one captured call. Its parts are given from the beginning to each new reader and once
to each; it is settled like any other call when its last part has been dealt with. Until then its
records are kept (see `carry`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from uuid import UUID

from proxy.endpoints import SOCKETS
from proxy.exchange import AnswerHead, End, Start
from proxy.socket_part import SocketPart, SocketPiece
from proxy.spool.carry import carried
from proxy.spool.load import UNREADABLE, Windows, segment_records
from proxy.spool.segment import Header, Kind
from proxy.spool.tracked import Tracked

PART_BYTES_MAX = 8 * 1024 * 1024

# A quote inside a JSON string is escaped, so nothing that an agent sent can look like this.
_MARKS = tuple(b'"endpoint":"%b"' % name.encode() for name in SOCKETS)


@dataclass(frozen=True, slots=True, eq=False)
class SocketDelivery:
    """A part of a socket, and what acknowledging the last one needs. Equal only to itself."""

    part: SocketPart
    is_damaged: bool
    slot: int
    tracked: Tracked

    @property
    def id(self) -> UUID:
        return self.part.start.id


def begins_socket(start: bytes | memoryview) -> bool:
    """Whether the payload of a START is that of a socket: parsing each would cost too much."""
    payload = bytes(start)
    return any(mark in payload for mark in _MARKS)


def next_part(slot: Path, call: Tracked) -> SocketPart | None:
    """What has come since the last part, up to a size; None: the START cannot be read."""
    head: AnswerHead | None = None
    end: End | None = None
    pieces: list[SocketPiece] = []
    room = PART_BYTES_MAX
    for header, payload in _undelivered(slot, call):
        try:
            match header.kind:
                case Kind.START:
                    call.start = replace(Start.from_bytes(payload), sequence=header.number)
                case Kind.HEAD:
                    head = AnswerHead.from_bytes(payload)
                case Kind.END:
                    end = End.from_bytes(payload)
                case _:
                    is_from_agent = header.kind == Kind.REQUEST
                    pieces.append(SocketPiece(header.number, is_from_agent, payload))
        except UNREADABLE:
            call.is_damaged = True
        room -= len(payload)
        if room <= 0:
            break
    if call.start is None:
        return None
    is_last = call.is_over and call.is_delivered
    return SocketPart(call.start, head, tuple(pieces), end, is_last)


def _undelivered(slot: Path, call: Tracked) -> Iterator[tuple[Header, bytes]]:
    for record in chain(_carried(slot, call), _in_segments(slot, call)):
        if record is None:
            call.is_damaged = True
        elif record[0].part >= call.delivered_parts:
            call.delivered_parts = record[0].part + 1
            yield record


def _carried(slot: Path, call: Tracked) -> Iterator[tuple[Header, bytes] | None]:
    if call.carried_read >= call.carried_bytes:
        return
    try:
        for item in carried(slot, call.key, call.carried_read, call.carried_bytes):
            call.carried_read = item.end
            yield item.header, bytes(item.payload)
    except OSError:
        yield None
    call.carried_read = call.carried_bytes


def _in_segments(slot: Path, call: Tracked) -> Iterator[tuple[Header, bytes] | None]:
    try:
        with Windows(slot) as windows:
            for record in segment_records(windows, call, call.positions_read):
                call.positions_read += 1
                yield record
    except OSError:
        return  # not now: the next part begins there
