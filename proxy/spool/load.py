"""Load: the exchange whose records lie at known positions, read from the segments."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import TracebackType
from zlib import crc32

from proxy.exchange import AnswerHead, End, Exchange, Piece, Start
from proxy.spool.carry import carried
from proxy.spool.segment import HEADER_BYTES, Header, Kind, header_at
from proxy.spool.segment_file import FOR_NOW, NOT_SOON, READ_TRIES_MAX, open_segment
from proxy.spool.tracked import Tracked

WINDOW_BYTES = 16 * 1024
WINDOWS_MAX = 4  # segments held open at a time
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


def load(windows: Windows, call: Tracked) -> tuple[Exchange | None, bool]:
    """The exchange (None: its START cannot be read) and whether records of it are missing.

    Raises OSError where the disk does not give them back now, and may later.
    """
    parts = _Gathered()
    records = segment_records(windows, call)
    for record in chain(_carried_records(windows.slot, call), records):
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
    windows: Windows, call: Tracked, first: int = 0
) -> Iterator[tuple[Header, bytes] | None]:
    """Each record that was not carried, in order; None for one that cannot be read any more.

    Raises OSError as `load` does.
    """
    closed: set[int] = set()
    for position in call.positions[first:]:
        number, offset = position >> 32, position & 0xFFFFFFFF
        if number in closed:
            yield None
            continue
        try:
            window = windows.of(number)
        except OSError as error:
            _settle_for_none(call, error)
            closed.add(number)
            yield None
            continue
        try:
            yield window.record(offset, call.key)
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


class Windows:
    """The segments of one slot, open for reading: calls that lie together are loaded together."""

    def __init__(self, slot: Path) -> None:
        self.slot = slot
        self._open: dict[int, _Window] = {}

    def __enter__(self) -> Windows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def of(self, number: int) -> _Window:
        """Raises OSError where the segment cannot be opened."""
        found = self._open.get(number)
        if found is None:
            if len(self._open) >= WINDOWS_MAX:
                self._open.pop(next(iter(self._open))).close()
            found = self._open[number] = _Window(open_segment(self.slot, number))
        return found


class _Window:
    """Reads a file in pieces large enough for the small records that lie close together."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._offset, self._data = 0, b""

    def close(self) -> None:
        self._file.close()

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
            self._data = os.pread(self._file.fileno(), max(length, WINDOW_BYTES), offset)
            self._offset, at = offset, 0
            if len(self._data) < length:
                raise OSError("the segment was cut")
        return self._data[at : at + length]
