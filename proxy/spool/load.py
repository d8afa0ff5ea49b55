"""Load: the exchange whose records lie at known positions, read from the segments."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from zlib import crc32

from proxy.exchange import AnswerHead, End, Exchange, Piece, Start
from proxy.spool.carry import carried
from proxy.spool.segment import HEADER_BYTES, Header, Kind, header_at
from proxy.spool.segment_file import FOR_NOW, NOT_SOON, READ_TRIES_MAX, open_segment
from proxy.spool.tracked import Tracked

WINDOW_BYTES = 16 * 1024
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)


class _Gathered:
    """The parts found so far."""

    __slots__ = ("end", "head", "is_damaged", "request", "response", "start")

    def __init__(self) -> None:
        self.start: Start | None = None
        self.head: AnswerHead | None = None
        self.end: End | None = None
        self.request: list[bytes] = []
        self.response: list[Piece] = []
        self.is_damaged = False

    def add(self, header: Header, payload: bytes) -> None:
        """Raises ValueError, KeyError, TypeError or AttributeError for an unreadable part."""
        match header.kind:
            case Kind.START:
                self.start = Start.from_bytes(payload, header.number)
            case Kind.REQUEST:
                self.request.append(payload)
            case Kind.HEAD:
                self.head = AnswerHead.from_bytes(payload)
            case Kind.RESPONSE:
                self.response.append(Piece(header.number, payload))
            case Kind.END:
                self.end = End.from_bytes(payload)


def load(slot: Path, call: Tracked) -> tuple[Exchange | None, bool]:
    """The exchange (None: its START cannot be read) and whether records of it are missing.

    Raises OSError where the disk does not give them back now, and may later.
    """
    parts = _Gathered()
    for record in chain(_carried_records(slot, call), segment_records(slot, call)):
        try:
            if record is None:
                parts.is_damaged = True
            else:
                parts.add(*record)
        except UNREADABLE:
            parts.is_damaged = True
    if parts.start is None:
        return None, True
    exchange = Exchange(
        parts.start, b"".join(parts.request), parts.head, tuple(parts.response), parts.end
    )
    return exchange, parts.is_damaged or call.is_damaged


def segment_records(
    slot: Path, call: Tracked, first: int = 0
) -> Iterator[tuple[Header, bytes] | None]:
    """Each record that was not carried, in order; None for one that cannot be read any more.

    Raises OSError as `load` does.
    """
    opened: dict[int, _Window | None] = {}
    with ExitStack() as stack:
        for position in call.positions[first:]:
            number, offset = position >> 32, position & 0xFFFFFFFF
            if number not in opened:
                try:
                    opened[number] = _Window(stack.enter_context(open_segment(slot, number)))
                except OSError as error:
                    _settle_for_none(call, error)
                    opened[number] = None
            window = opened[number]
            try:
                yield window.record(offset, call.key) if window else None
            except OSError as error:
                _settle_for_none(call, error)
                yield None


def _carried_records(slot: Path, call: Tracked) -> Iterator[tuple[Header, bytes] | None]:
    if not call.carried_bytes:
        return
    try:
        for item in carried(slot, call.key, end=call.carried_bytes):
            yield item.header, bytes(item.payload)
    except OSError as error:
        _settle_for_none(call, error)
        yield None


def _settle_for_none(call: Tracked, error: OSError) -> None:
    """Return where it is of no use to try again, else raise the error."""
    if error.errno in FOR_NOW:
        raise error
    call.refusals += 1
    if error.errno not in NOT_SOON and call.refusals < READ_TRIES_MAX:
        raise error


class _Window:
    """Reads a file in pieces large enough for the small records that lie close together."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._offset, self._data = 0, b""

    def record(self, offset: int, key: bytes) -> tuple[Header, bytes] | None:
        """None: it is not there, or has rotted since it was found. Raises OSError."""
        header = header_at(self._bytes(offset, HEADER_BYTES), 0)
        if header is None or header.key != key:
            return None
        payload = self._bytes(offset + HEADER_BYTES, header.length)
        return (header, payload) if crc32(payload) == header.payload_crc else None

    def _bytes(self, offset: int, length: int) -> bytes:
        """Raises OSError, also at the end of the file."""
        at = offset - self._offset
        if at < 0 or at + length > len(self._data):
            self._file.seek(offset)
            self._data = self._file.read(max(length, WINDOW_BYTES)) or b""
            self._offset, at = offset, 0
            if len(self._data) < length:
                raise OSError("the segment was cut")
        return self._data[at : at + length]
