"""Content-encodings: whole, cut, damaged, mislabelled, and made to blow up."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable
from itertools import pairwise

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from proxy.decode.body import MEMBERS_MAX, read_body
from proxy.decode.problems import Problems
from proxy.exchange import Piece

TEXT = b"".join(b'data: {"n": %d}\n\n' % number for number in range(400))


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "br": brotli.compress,
    "zstd": zstandard.compress,
    "identity": bytes,
    "": bytes,
}


def read(
    data: bytes | list[bytes], coding: str | None, bytes_max: int = 1 << 26
) -> tuple[bytes, tuple[str, ...]]:
    pieces = [data] if isinstance(data, bytes) else data
    problems = Problems()
    body = read_body(
        [Piece(at_us, piece) for at_us, piece in enumerate(pieces)],
        coding,
        problems,
        bytes_max=bytes_max,
    )
    return body.data, problems.as_tuple()


def cut(data: bytes, marks: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(mark % (len(data) + 1) for mark in marks)})
    return [data[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize("coding", PACK)
def test_a_coding_is_undone(coding: str) -> None:
    assert read(PACK[coding](TEXT), coding) == (TEXT, ())


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_members_are_joined(coding: str) -> None:
    pack = PACK[coding]
    assert read(pack(TEXT) + pack(b"") + pack(b"end"), coding) == (TEXT + b"end", ())


def test_several_codings_are_undone_in_reverse() -> None:
    assert read(brotli.compress(gzip.compress(TEXT)), "gzip, br") == (TEXT, ())


def test_no_coding_and_no_bytes() -> None:
    assert read(b"a", None) == (b"a", ())
    assert read(b"", "gzip") == (b"", ())


@pytest.mark.parametrize("coding", ["gzip", "deflate", "Deflate", "br", "zstd"])
def test_a_cut_body_gives_what_could_be_decoded(coding: str) -> None:
    packed = PACK[coding](TEXT * 20)
    data, problems = read(packed[:-3], coding)
    assert (TEXT * 20).startswith(data)
    assert problems == (f"{coding.lower()} body is cut short",)


def test_events_flushed_one_by_one_survive_a_cut() -> None:
    packer = zlib.compressobj(wbits=31)
    first = packer.compress(b"data: a\n\n") + packer.flush(zlib.Z_SYNC_FLUSH)
    second = packer.compress(b"data: b\n\n") + packer.flush(zlib.Z_SYNC_FLUSH)
    data, problems = read([first, second[:2]], "gzip")
    assert data.startswith(b"data: a\n\n")
    assert problems == ("gzip body is cut short",)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_a_damaged_body_gives_what_comes_before_the_damage(coding: str) -> None:
    noise = random.Random(1).randbytes(300_000)
    packed = bytearray(PACK[coding](noise))
    packed[len(packed) // 2 :] = b"\xff" * (len(packed) // 2)
    data, problems = read(bytes(packed), coding)
    assert data
    assert noise.startswith(data[:1000])
    assert problems == (f"{coding} body is damaged; what could be decoded is kept",)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_wrong_label_is_not_believed(coding: str) -> None:
    body = b'{"choices": []}'
    assert read(body, coding) == (
        body,
        (f"body is labelled {coding} and is not; it is read as it is",),
    )


def test_an_unknown_coding_is_said() -> None:
    assert read(b"abc", "x-shrink") == (
        b"abc",
        ("body has an unknown content-encoding, 'x-shrink'",),
    )


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_a_bomb_is_cut(coding: str) -> None:
    bomb = brotli.compress(bytes(40_000_000), quality=1) if coding == "br" else None
    data, problems = read(bomb or PACK[coding](bytes(40_000_000)), coding, bytes_max=20_000_000)
    assert len(data) <= 20_000_000
    assert problems[0] == f"{coding} body is longer than is kept; the rest is left out"


def test_output_is_held_to_a_ratio() -> None:
    assert len(read(gzip.compress(bytes(40_000_000)), "gzip")[0]) < 10_000_000


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", ""])
def test_a_long_body_is_cut_at_the_limit(coding: str) -> None:
    data, problems = read(PACK[coding](TEXT), coding, bytes_max=1000)
    assert data == TEXT[:1000]
    assert any(
        problem.endswith("is longer than is kept; the rest is left out") for problem in problems
    )


def test_members_are_limited() -> None:
    data, problems = read(gzip.compress(b"a") + gzip.compress(b"") * (MEMBERS_MAX + 1), "gzip")
    assert data == b"a"
    assert problems == ("gzip body is damaged; what could be decoded is kept",)


@given(
    st.sampled_from(["gzip", "deflate", "Deflate", "br", "zstd"]),
    st.binary(max_size=400),
    st.lists(st.integers(0, 10_000), max_size=8),
    st.integers(0, 10_000),
    st.integers(0, 255),
)
def test_how_a_body_was_cut_changes_nothing(
    coding: str, data: bytes, marks: list[int], place: int, noise: int
) -> None:
    """Whole, cut or damaged at any place: the pieces do not matter."""
    packed = bytearray(PACK[coding](data))
    packed[place % len(packed)] ^= noise
    body = bytes(packed)
    assert read(cut(body, marks), coding) == read(body, coding)


@pytest.mark.parametrize("marks", [[1], [8], list(range(9))])
def test_a_zstd_frame_of_another_size_than_it_says_is_read_alike_however_it_came(
    marks: list[int],
) -> None:
    body = bytes.fromhex("28b52ffd2001010000")  # says one byte, holds none
    assert read(cut(body, marks), "zstd") == read(body, "zstd")


@given(st.binary(max_size=300), st.text(max_size=30))
def test_any_bytes_under_any_label_are_read(data: bytes, coding: str) -> None:
    """Nothing raises."""
    read(data, coding)
    read(data, "gzip, deflate, br, zstd, gzip")


def test_arrival_is_that_of_the_piece_that_completes_the_bytes() -> None:
    body = read_body([Piece(10, b"ab"), Piece(20, b""), Piece(30, b"cd")], None, Problems())
    assert [body.arrival_us(offset) for offset in range(6)] == [10, 10, 10, 30, 30, 30]
    assert read_body([], None, Problems()).arrival_us(0) is None


def test_arrival_is_told_inside_a_coding() -> None:
    packer = zlib.compressobj(wbits=31)
    first = packer.compress(b"aaaa") + packer.flush(zlib.Z_SYNC_FLUSH)
    second = packer.compress(b"bbbb") + packer.flush()
    body = read_body([Piece(10, first), Piece(30, second)], "gzip", Problems())
    assert [body.arrival_us(4), body.arrival_us(5)] == [10, 30]
