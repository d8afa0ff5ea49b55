"""Verify: an independent look at a spool. Reads every byte, changes nothing, believes no counter.

Counts the calls that wait and holds them against the totals. Beside a running gateway and recorder
the two may differ by what happened meanwhile; at rest a difference is a defect.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from proxy.spool import slot
from proxy.spool.carry import carried, carried_keys
from proxy.spool.journal import acknowledged, last_settled
from proxy.spool.page import read_page
from proxy.spool.segment import VERSION, Found, Kind
from proxy.spool.segment_file import open_segment, walk
from proxy.spool.totals import Captured, SlotTotals, read_slot


@dataclass(frozen=True, slots=True)
class SlotCheck:
    """What one slot holds."""

    slot: int
    totals: SlotTotals
    segments: int
    records: int
    waiting: int  # calls whose START is there and that nobody has dealt with
    unnoticed: int  # calls that were captured and whose START is nowhere
    problems: tuple[str, ...]  # places that cannot be read, with file and offset

    @property
    def is_consistent(self) -> bool:
        """Whether what is there is what the totals say."""
        return self.totals.waiting == self.waiting + self.unnoticed


@dataclass(slots=True)
class _Count:
    records: int = 0
    waiting: set[bytes] = field(default_factory=set)
    missing: int = 0
    sequence: int = 0  # all calls up to this one are accounted for
    is_blind: bool = False  # something before this place could not be read
    problems: list[str] = field(default_factory=list)

    def take(self, item: Found, settled: set[bytes]) -> None:
        self.records += 1
        if item.header.kind == Kind.START and item.is_good:
            self.reach(item.header.number - 1)
            self.sequence = max(self.sequence, item.header.number)
            if item.header.key not in settled:
                self.waiting.add(item.header.key)
        elif item.header.kind == Kind.BOOT:
            self.reach(item.header.number)

    def reach(self, sequence: int) -> None:
        if sequence > self.sequence:
            self.missing += 0 if self.is_blind else sequence - self.sequence
            self.sequence = sequence
        self.is_blind = False


def verify(root: Path) -> list[SlotCheck]:
    """Each slot of the spool. Never raises."""
    return [_verify_slot(root / str(number), number) for number in slot.slots(root)]


def _verify_slot(path: Path, number: int) -> SlotCheck:
    totals = read_slot(path, number)
    captured = Captured.of(read_page(path / slot.CAPTURED) or ())
    count = _Count(sequence=last_settled(path).sequence)
    settled = acknowledged(path)
    numbers = slot.segments(path)
    for key in carried_keys(path):
        with contextlib.suppress(OSError):
            kinds = {item.header.kind for item in carried(path, key)}
            if Kind.START in kinds and key not in settled:
                count.waiting.add(key)
    for each in numbers:
        _look(path, each, count, settled, is_last=each == numbers[-1])
    count.reach(captured.sequence)
    return SlotCheck(
        number,
        totals,
        len(numbers),
        count.records,
        len(count.waiting),
        count.missing,
        tuple(count.problems),
    )


def _look(path: Path, number: int, count: _Count, settled: set[bytes], *, is_last: bool) -> None:
    name = slot.segment_path(path, number).name
    end = 0
    try:
        with open_segment(path, number) as file:
            for item in walk(file.fileno()):
                end = item.end
                if not isinstance(item, Found):
                    count.problems.append(f"{name}: damaged from {item.offset} to {item.end}")
                    continue
                if not item.is_good:
                    count.problems.append(f"{name}: damaged payload at {item.offset}")
                if item.header.version > VERSION:
                    count.is_blind = True
                count.take(item, settled)
            if os.fstat(file.fileno()).st_size > end and not is_last:
                count.problems.append(f"{name}: torn at {end}")
    except OSError as error:
        count.is_blind = True
        count.problems.append(f"{name}: {error.strerror or error}")
