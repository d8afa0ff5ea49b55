"""Image tokens: sizes from the first bytes, and each provider's published rule."""

from __future__ import annotations

import base64
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.enrich.images import (
    Size,
    anthropic_tokens,
    gemini_tokens,
    openai_tokens,
    size_of_base64,
)

PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + pack(">II", 640, 480)
GIF = b"GIF89a" + pack("<HH", 320, 200)
APP = b"\xff\xe0" + pack(">H", 6) + b"JFIF"
FRAME = b"\xff\xc2" + pack(">HBHH", 17, 8, 300, 500) + b"\0" * 12
JPEG = b"\xff\xd8" + APP + b"\xff\xff" + b"\xc4" + pack(">H", 4) + b"\0\0" + FRAME
WEBP_X = b"RIFF\0\0\0\0WEBPVP8X" + b"\0" * 8 + b"\x1f\x03\x00" + b"\x57\x02\x00"
WEBP_L = b"RIFF\0\0\0\0WEBPVP8L" + b"\0" * 4 + b"\x2f" + (799 | 599 << 14).to_bytes(4, "little")
WEBP = b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 10 + pack("<HH", 800, 600)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (PNG, (640, 480)),
        (GIF, (320, 200)),
        (JPEG, (500, 300)),
        (WEBP_X, (800, 600)),
        (WEBP_L + b"\0" * 8, (800, 600)),
        (WEBP, (800, 600)),
        (WEBP.replace(b"VP8 ", b"ALPH"), None),
        (PNG[:20], None),
        (PNG[:16] + pack(">II", 0, 480), None),
        (JPEG[:12], None),
        (b"\xff\xd8\x00\x01" + b"\0" * 20, None),
        (b"plain text, and no image at all", None),
        (b"", None),
    ],
)
def test_sizes_are_read_from_the_first_bytes(data: bytes, size: Size | None) -> None:
    text = base64.b64encode(data + b"\0" * (-len(data) % 3)).decode()
    assert size_of_base64(text) == size
    assert size_of_base64(f"data:image/png;base64,{text}") == size


def test_what_is_not_base64_has_no_size() -> None:
    assert size_of_base64("https://host/image.png") is None
    assert size_of_base64("ünï") is None


@given(
    st.one_of(st.text(), st.binary().map(lambda data: base64.b64encode(JPEG[:4] + data).decode()))
)
def test_any_text_gives_a_size_or_none(text: str) -> None:
    """Whatever stands in the place of an image: no exception."""
    size = size_of_base64(text)
    assert size is None or min(size) > 0


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        # The examples of OpenAI's page "Images and vision".
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4o", (100, 100), None, 255),
        ("gpt-4o", None, None, 765),
        ("gpt-4o-mini", (1024, 1024), "auto", 25_501),
        ("gpt-5", (1024, 1024), None, 630),
        ("o3", (1024, 1024), None, 675),
        ("gpt-4.1-mini", (1024, 1024), None, 1659),
        ("o4-mini", (4096, 4096), None, 2642),
    ],
)
def test_openai_counts_tiles_or_patches(
    model: str, size: Size | None, detail: str | None, tokens: int
) -> None:
    assert openai_tokens(model, size, detail) == tokens


@pytest.mark.parametrize(
    ("size", "anthropic", "gemini"),
    [
        ((200, 200), 54, 258),
        ((1000, 1000), 1334, 1032),
        ((4000, 4000), 1600, 9288),
        ((384, 385), 198, 1032),
        (None, 1399, 1032),
    ],
)
def test_anthropic_counts_pixels_and_gemini_tiles(
    size: Size | None, anthropic: int, gemini: int
) -> None:
    assert (anthropic_tokens(size), gemini_tokens(size)) == (anthropic, gemini)
