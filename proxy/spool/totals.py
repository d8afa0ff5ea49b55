"""Totals: how many calls a spool has captured, and what has become of them.

`captured = stored + waiting + quarantined + lost`, per slot and added up. The writer counts
captures and what it could not write, the recorder counts the rest; each keeps its counters in a
page of the slot (`page`), so any process reads them at any time, without locks, after a kill too.
What the recorder set aside and was stored since (`resubmitted`) moves from one to the other here.
`waiting` is the difference, not a count of its own; `verify` counts it independently.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from proxy.spool import slot
from proxy.spool.page import read_page
from proxy.spool.segment import Found, Kind
from proxy.spool.segment_file import open_segment, walk


class Loss(StrEnum):
    """Why a call is not in the spool any more, or never was."""

    DISK_FULL = "disk_full"  # no space, quota or file size limit
    IO_ERROR = "io_error"  # the disk refused otherwise
    SPOOL_FULL = "spool_full"  # `spool.max_bytes` is reached
    TOO_LARGE = "too_large"  # its head is larger than a record may be, or cannot be encoded
    STALLED = "stalled"  # the disk stood still and the memory kept for that was full
    DAMAGED = "damaged"  # written, but its beginning cannot be read back
    DISCARDED = "discarded"  # the recorder gave it up


WRITER_LOSSES = (Loss.DISK_FULL, Loss.IO_ERROR, Loss.SPOOL_FULL, Loss.TOO_LARGE, Loss.STALLED)
READER_LOSSES = (Loss.DAMAGED, Loss.DISCARDED)


@dataclass(slots=True)
class Captured:
    """The writer's counters of one slot."""

    sequence: int = 0  # calls whose START is in a segment
    segment: int = 0  # number of the newest segment
    truncated: int = 0  # calls begun whose bodies the spool could not keep whole
    lost: dict[Loss, int] = field(default_factory=lambda: dict.fromkeys(WRITER_LOSSES, 0))

    def counters(self) -> tuple[int, ...]:
        return (self.sequence, self.segment, self.truncated, *self.lost.values())

    @classmethod
    def of(cls, counters: Sequence[int]) -> Captured:
        sequence, number, truncated, *lost = _padded(counters, 3 + len(WRITER_LOSSES))
        return cls(sequence, number, truncated, dict(zip(WRITER_LOSSES, lost, strict=True)))


@dataclass(slots=True)
class Settled:
    """The recorder's counters of one slot, and how far it has read."""

    revision: int = 0  # grows with each write: of two copies the larger one is newer
    stored: int = 0
    quarantined: int = 0
    sequence: int = 0  # every call up to this one has been found, or counted as damaged
    found: int = 0  # calls found beyond the writer's count (copied or restored segments)
    segment: int = 0  # damage up to this place has been counted,
    offset: int = 0  # and everything waiting lies behind it or is no older than `oldest_ms`
    oldest_ms: int = 0  # of the calls read and not settled, since 1970; 0: there are none
    damaged: int = 0  # places that cannot be read
    torn: int = 0  # records whose writing was cut short
    lost: dict[Loss, int] = field(
        default_factory=lambda: dict.fromkeys(READER_LOSSES, 0), init=False
    )

    def counters(self) -> tuple[int, ...]:
        return (
            *(self.revision, self.stored, self.quarantined, self.sequence, self.found),
            *(self.segment, self.offset, self.oldest_ms, self.damaged, self.torn),
            *self.lost.values(),
        )

    @classmethod
    def of(cls, counters: Sequence[int]) -> Settled:
        padded = _padded(counters, 10 + len(READER_LOSSES))
        settled = cls(*padded[:10])
        settled.lost = dict(zip(READER_LOSSES, padded[10:], strict=True))
        return settled


@dataclass(frozen=True, slots=True)
class Totals:
    """One snapshot. All counts are since the spool was made."""

    captured: int = 0
    stored: int = 0
    quarantined: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)  # by reason
    truncated: int = 0
    damaged: int = 0
    torn: int = 0
    oldest_waiting_at: datetime | None = None
    disk_bytes: int = 0

    @property
    def waiting(self) -> int:
        return self.captured - self.stored - self.quarantined - sum(self.lost.values())


@dataclass(frozen=True, slots=True)
class SlotTotals(Totals):
    """One slot's snapshot."""

    slot: int = 0
    is_live: bool = False  # a writer holds the slot


def read_totals(root: Path) -> list[SlotTotals]:
    """A snapshot per slot. Needs no lock and disturbs nobody; never raises."""
    return [read_slot(root / str(number), number) for number in slot.slots(root)]


def summed(parts: Iterable[Totals]) -> Totals:
    """One snapshot of several slots or spools."""
    total = Totals(lost={reason.value: 0 for reason in Loss})
    for part in parts:
        total = replace(
            total,
            captured=total.captured + part.captured,
            stored=total.stored + part.stored,
            quarantined=total.quarantined + part.quarantined,
            lost={reason: n + part.lost.get(reason, 0) for reason, n in total.lost.items()},
            truncated=total.truncated + part.truncated,
            damaged=total.damaged + part.damaged,
            torn=total.torn + part.torn,
            oldest_waiting_at=_earlier(total.oldest_waiting_at, part.oldest_waiting_at),
            disk_bytes=total.disk_bytes + part.disk_bytes,
        )
    return total


def id_ms(key: bytes) -> int:
    """When a call arrived, in milliseconds since 1970, from its UUIDv7; 0 for other ids."""
    return int.from_bytes(key[:6], "big") if key[6] >> 4 == 7 else 0


def read_slot(path: Path, number: int) -> SlotTotals:
    """A snapshot of the slot at `path`."""
    # What came of what was settled is read first, then that: neither overtakes what it is of.
    resubmitted = slot.resubmitted(path)
    settled = Settled.of(read_page(path / slot.SETTLED) or ())
    captured = Captured.of(read_page(path / slot.CAPTURED) or ())
    resubmitted = min(resubmitted, settled.quarantined)  # where the recorder's counters were lost
    lost = captured.lost | settled.lost
    totals = SlotTotals(
        captured=captured.sequence + settled.found + sum(captured.lost.values()),
        stored=settled.stored + resubmitted,
        quarantined=settled.quarantined - resubmitted,
        lost={reason.value: lost[reason] for reason in Loss},
        truncated=captured.truncated,
        damaged=settled.damaged,
        torn=settled.torn,
        disk_bytes=slot.disk_bytes(path),
        slot=number,
        is_live=slot.is_held(path / slot.LOCK),
    )
    if totals.waiting <= 0:
        return totals
    oldest_ms = settled.oldest_ms or _first_start_ms(path, settled)
    return replace(totals, oldest_waiting_at=_instant(oldest_ms) if oldest_ms else None)


def _first_start_ms(path: Path, settled: Settled) -> int:
    """When the first call arrived that lies behind what the recorder has read."""
    for number in slot.segments(path):
        if number < settled.segment:
            continue
        offset = settled.offset if number == settled.segment else 0
        with contextlib.suppress(OSError), open_segment(path, number) as file:
            for item in walk(file.fileno(), offset):
                if isinstance(item, Found) and item.header.kind == Kind.START:
                    return id_ms(item.header.key)
    return 0


def _instant(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min(one, other) if one and other else one or other


def _padded(counters: Sequence[int], length: int) -> tuple[int, ...]:
    return (*counters, *([0] * length))[:length]
