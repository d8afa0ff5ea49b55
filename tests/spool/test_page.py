"""Counters in a file that needs no room once it is there."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.spool.page import PAGE_BYTES, Page, pack, read_page, unpack


@given(st.lists(st.integers(0, 2**64 - 1), max_size=256))
def test_counters_come_back_as_written(counters: list[int]) -> None:
    assert unpack(pack(counters) + bytes(100)) == tuple(counters)


@given(st.binary(max_size=200))
def test_any_other_bytes_are_no_page(data: bytes) -> None:
    assert unpack(data) is None


def test_every_flipped_bit_is_noticed() -> None:
    data = pack((1, 2, 3))
    for bit in range(len(data) * 8):
        hurt = bytearray(data)
        hurt[bit // 8] ^= 1 << bit % 8
        assert unpack(bytes(hurt)) is None


def test_a_page_is_read_by_path(tmp_path: Path) -> None:
    page = Page(tmp_path / "page")
    assert read_page(tmp_path / "page") is None
    page.write((5, 6))
    assert read_page(tmp_path / "page") == (5, 6)
    assert (tmp_path / "page").stat().st_size == PAGE_BYTES
    assert (tmp_path / "page").stat().st_mode & 0o777 == 0o600
    page.close()


def test_counters_survive_opening_again(tmp_path: Path) -> None:
    first = Page(tmp_path / "page")
    first.write((5, 6))
    first.close()
    Page(tmp_path / "page").close()
    assert read_page(tmp_path / "page") == (5, 6)


@pytest.mark.parametrize("kind", ["missing", "directory", "link", "pipe"])
def test_what_is_no_page_reads_as_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "page"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        other = Page(tmp_path / "other")
        other.write((1,))
        other.close()
        path.symlink_to(tmp_path / "other")
    elif kind == "pipe":
        os.mkfifo(path)
    assert read_page(path) is None


def test_a_page_that_cannot_be_filled_is_refused(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    descriptors = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="No space"):
            Page(tmp_path / "page")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(os.listdir("/dev/fd")) == descriptors
