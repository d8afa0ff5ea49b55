"""Images: how many prompt tokens a provider charges for one, by its published rule.

Sizes are read from the first bytes of an inline PNG, JPEG, GIF or WebP. An image that only a URL
names is taken as ASSUMED_SIZE. Sources: OpenAI "Images and vision", Anthropic "Vision", Google
"Understand and count tokens".
"""

from __future__ import annotations

import base64
import binascii
import math
from struct import unpack_from

HEAD_CHARS = 87_384  # base64 of 64 KiB: a JPEG's frame header may stand behind a large profile
ASSUMED_SIZE = (1024, 1024)

Size = tuple[int, int]

# model prefix → (base tokens, tokens per 512-pixel tile), the first that fits
_TILES = (
    ("gpt-4o-mini", 2833, 5667),
    ("gpt-5", 70, 140),
    ("o1", 75, 150),
    ("o3", 75, 150),
    ("computer-use", 65, 129),
    ("", 85, 170),
)
# model prefix → tokens per 32-pixel patch
_PATCHES = (
    ("gpt-4.1-mini", 1.62),
    ("gpt-4.1-nano", 2.46),
    ("gpt-5-mini", 1.62),
    ("gpt-5-nano", 2.46),
    ("o4-mini", 1.72),
)
_PATCHES_MAX = 1536


def openai_tokens(model: str, size: Size | None, detail: str | None) -> int:
    """By patches for the newer small models, by tiles for the others."""
    width, height = size or ASSUMED_SIZE
    factor = next((f for prefix, f in _PATCHES if model.startswith(prefix)), None)
    if factor is not None:
        patches = math.ceil(width / 32) * math.ceil(height / 32)
        return math.ceil(min(patches, _PATCHES_MAX) * factor)
    base, tile = next((b, t) for prefix, b, t in _TILES if model.startswith(prefix))
    if detail == "low":
        return base
    shrink = min(1.0, 2048 / max(width, height))
    shrink *= min(1.0, 768 / max(1.0, min(width, height) * shrink))
    tiles = math.ceil(width * shrink / 512) * math.ceil(height * shrink / 512)
    return base + tile * max(1, tiles)


def anthropic_tokens(size: Size | None) -> int:
    """Width × height / 750, after scaling to 1568 pixels on the long side and about 1600 tokens."""
    width, height = size or ASSUMED_SIZE
    shrink = min(1.0, 1568 / max(width, height))
    return min(1600, math.ceil(width * shrink * height * shrink / 750))


def gemini_tokens(size: Size | None) -> int:
    """258, or 258 for each tile where a side exceeds 384 pixels."""
    width, height = size or ASSUMED_SIZE
    if max(width, height) <= 384:
        return 258
    unit = max(256, min(768, math.floor(min(width, height) / 1.5)))
    return 258 * math.ceil(width / unit) * math.ceil(height / unit)


def size_of_base64(text: str) -> Size | None:
    """Width and height of an image given as base64 or as a data URL; None where it has none."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    head = text[:HEAD_CHARS]
    try:
        data = base64.b64decode(head[: len(head) // 4 * 4])
    except (binascii.Error, ValueError):
        return None
    return _size(data)


def _size(data: bytes) -> Size | None:
    size: Size | None = None
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        size = unpack_from(">II", data, 16)
    elif data[:4] == b"GIF8" and len(data) >= 10:
        size = unpack_from("<HH", data, 6)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        size = _size_of_webp(data)
    elif data[:2] == b"\xff\xd8":
        size = _size_of_jpeg(data)
    return size if size and min(size) > 0 else None


def _size_of_webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _size_of_jpeg(data: bytes) -> Size | None:
    """The first start-of-frame segment. Segments are a marker and a length; T.81, annex B."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + max(2, unpack_from(">H", data, at + 2)[0])
    return None
