"""The record format: what is written is found, whatever happens to its neighbours."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.spool import segment
from proxy.spool.segment import Damage, Found, Kind, header_at, header_bytes, scan

KEYS = [bytes([n]) * 16 for n in range(1, 6)]
RECORDS = [
    header_bytes(Kind.RESPONSE, key, payload, part=n, number=7) + payload
    for n, (key, payload) in enumerate(
        zip(KEYS, (b"one", b"", b"x" * 70, b"four", b"5"), strict=True)
    )
]
WHOLE = b"".join(RECORDS)
BOUNDARIES = [sum(map(len, RECORDS[:n])) for n in range(len(RECORDS) + 1)]

records = st.lists(
    st.tuples(
        st.sampled_from(Kind),
        st.binary(min_size=16, max_size=16),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**64 - 1),
        st.binary(max_size=300),
    ),
    max_size=8,
)


def good(data: bytes) -> list[Found]:
    return [item for item in scan(data) if isinstance(item, Found) and item.is_good]


def keys(data: bytes) -> list[bytes]:
    return [item.header.key for item in good(data)]


@given(records)
def test_what_is_written_is_found(made: list[tuple[Kind, bytes, int, int, bytes]]) -> None:
    data = b"".join(
        header_bytes(kind, key, payload, part=part, number=number) + payload
        for kind, key, part, number, payload in made
    )
    found = [
        (
            item.header.kind,
            item.header.key,
            item.header.part,
            item.header.number,
            bytes(item.payload),
        )
        for item in good(data)
    ]
    assert found == made


@given(
    st.binary(max_size=2000)
    | st.lists(st.sampled_from([*RECORDS, segment.MAGIC, b"\0" * 50, RECORDS[2][:60]])).map(
        b"".join
    )
)
def test_any_bytes_are_covered_without_gap_or_overlap(data: bytes) -> None:
    place = 0
    for item in scan(data):
        assert item.offset == place
        assert item.end > item.offset
        place = item.end
    assert place <= len(data)


@pytest.mark.parametrize("length", range(len(WHOLE) + 1))
def test_every_prefix_gives_its_whole_records_and_waits_for_the_rest(length: int) -> None:
    items = list(scan(WHOLE[:length]))
    whole = sum(boundary <= length for boundary in BOUNDARIES) - 1
    assert [bytes(item.header.key) for item in items if isinstance(item, Found)] == KEYS[:whole]
    assert not any(isinstance(item, Damage) for item in items)


def test_every_flipped_bit_costs_its_own_record_only() -> None:
    for bit in range(len(WHOLE) * 8):
        data = bytearray(WHOLE)
        data[bit // 8] ^= 1 << bit % 8
        hit = max(n for n, boundary in enumerate(BOUNDARIES) if boundary <= bit // 8)
        rest = [key for key in KEYS if key != KEYS[hit]]
        assert keys(bytes(data)) == rest, bit


@pytest.mark.parametrize("size", [1, 16, 48, 64, 512])
def test_zeroed_pages_cost_the_records_they_touch_only(size: int) -> None:
    data = WHOLE * 12
    bounds = [base * len(WHOLE) + b for base in range(12) for b in BOUNDARIES[:-1]] + [len(data)]
    for at in range(0, len(data), size):
        zeroed = data[:at] + bytes(min(size, len(data) - at)) + data[at + size :]
        if zeroed == data:
            continue
        untouched = sum(end <= at or begin >= at + size for begin, end in pairwise(bounds))
        assert len(good(zeroed)) >= untouched, at


def test_a_record_inside_a_body_is_never_found() -> None:
    forged = header_bytes(Kind.END, KEYS[0], b"forged") + b"forged"
    carrier = header_bytes(Kind.REQUEST, KEYS[1], forged) + forged
    assert keys(carrier + RECORDS[0]) == [KEYS[1], KEYS[0]]
    torn = carrier[:-1]
    assert keys(torn) == []
    hurt = carrier[:-1] + b"\0"
    assert keys(hurt + RECORDS[0]) == [KEYS[0]]
    assert good(hurt + RECORDS[0])[0].header.kind == Kind.RESPONSE


def test_a_header_that_claims_more_than_a_record_may_hold_is_damage() -> None:
    huge = header_bytes(Kind.REQUEST, KEYS[0], b"x" * (segment.PAYLOAD_BYTES_MAX + 1))
    assert header_at(huge, 0) is None
    largest = header_bytes(Kind.REQUEST, KEYS[0], b"x" * segment.PAYLOAD_BYTES_MAX)
    assert header_at(largest, 0) is not None


def test_offsets_count_from_the_given_base() -> None:
    assert [(item.offset, item.end) for item in scan(RECORDS[0] + RECORDS[1], 1000)] == [
        (1000, 1000 + len(RECORDS[0])),
        (1000 + len(RECORDS[0]), 1000 + len(RECORDS[0] + RECORDS[1])),
    ]


def test_a_crowd_of_false_magics_is_one_damage() -> None:
    items = list(scan(segment.MAGIC * 20_000 + RECORDS[0]))
    assert [type(item) for item in items] == [Damage, Found]
    assert isinstance(items[1], Found)
    assert items[1].header.key == KEYS[0]
