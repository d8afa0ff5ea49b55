"""Recovery: a writer's counters when it takes over a slot.

The page is written after the record it counts, so a kill in between leaves it one behind: the last
START knows better. A page that is gone or damaged is rebuilt from the last BOOT, the segments'
sequences and the recorder's count; what was lost since that BOOT is then not known any more.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from proxy.spool import slot
from proxy.spool.journal import last_settled
from proxy.spool.page import read_page, unpack
from proxy.spool.segment import Found, Kind
from proxy.spool.segment_file import open_segment, walk
from proxy.spool.totals import Captured


def recovered(path: Path) -> Captured:
    """What the writer of this slot has counted so far. Never raises for what lies there."""
    numbers = slot.segments(path)
    page = read_page(path / slot.CAPTURED)
    counters = Captured.of(page or ())
    settled = last_settled(path)
    counters.segment = max(counters.segment, settled.segment, *numbers, 0)
    counters.sequence = max(counters.sequence, settled.sequence)
    for number in reversed(numbers):
        sequence, boot = _last(path, number)
        counters.sequence = max(counters.sequence, sequence)
        if page is None and boot is not None:
            counters.truncated, counters.lost = boot.truncated, boot.lost
        if boot is not None or (sequence and page is not None):
            break
    return counters


def _last(path: Path, number: int) -> tuple[int, Captured | None]:
    """The highest sequence in the segment, and what its last BOOT says."""
    sequence, boot = 0, None
    with contextlib.suppress(OSError), open_segment(path, number) as file:
        for item in walk(file.fileno()):
            if not isinstance(item, Found) or item.header.kind not in (Kind.BOOT, Kind.START):
                continue
            sequence = max(sequence, item.header.number)
            if item.header.kind == Kind.BOOT and item.is_good:
                boot = Captured.of(unpack(bytes(item.payload)) or ())
    return sequence, boot
