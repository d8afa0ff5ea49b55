"""Media leave a record and come back exactly, whatever shape they came in."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.call import Json
from proxy.enrich.media import DEPTH_MAX, NAME, extract, is_reference, restore, settle
from proxy.record import Blob, TelemetryRecord

PNG = b"\x89PNG\r\n\x1a\n" + os.urandom(3000)
PCM = os.urandom(3000)  # audio of no known kind
DIGEST = hashlib.sha256(b"x").hexdigest()
LIMIT = 2000


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{b64(content)}"


def record(value: Json, column: str = "chat_history") -> TelemetryRecord:
    created_at = datetime(2026, 1, 1, tzinfo=UTC)
    columns: dict[str, Any] = {column: value}
    return TelemetryRecord(UUID(int=1), created_at, "model-1", 5, **columns)


def kept(
    value: Json,
    limit: int = LIMIT,
    column: str = "chat_history",
    clean: Callable[[str], str] = lambda text: text,
) -> tuple[Json, dict[str, Blob]]:
    """The column as it would be stored, and the blobs beside it."""
    bare, taken = extract(record(value, column), clean, limit)
    settled, blobs = settle(bare, taken, limit)
    return getattr(settled, column), {blob.sha256: blob for blob in blobs}


def restored(value: Json, blobs: dict[str, Blob]) -> Json:
    contents = {key: blob.content for key, blob in blobs.items()}
    return restore(value, contents.get)


def reference(content: bytes, kind: str | None, **more: str) -> Json:
    sha256 = hashlib.sha256(content).hexdigest()
    return {NAME: sha256, "media_type": kind, "bytes": len(content), **more}


PNG_URL = reference(PNG, "image/png", prefix="data:image/png;base64,")
SHAPES: dict[str, tuple[Json, Json]] = {
    "OpenAI image_url": (
        {"type": "image_url", "image_url": {"url": url(PNG), "detail": "low"}},
        {"type": "image_url", "image_url": {"url": PNG_URL, "detail": "low"}},
    ),
    "Responses input_image": (
        {"type": "input_image", "image_url": url(PNG)},
        {"type": "input_image", "image_url": PNG_URL},
    ),
    "OpenAI input_audio": (
        {"type": "input_audio", "input_audio": {"data": b64(PCM), "format": "pcm16"}},
        {"type": "input_audio", "input_audio": {"data": reference(PCM, None), "format": "pcm16"}},
    ),
    "OpenAI file_data": (
        {"file": {"filename": "a.pdf", "file_data": url(b"%PDF-" + PCM, "application/pdf")}},
        {
            "file": {
                "filename": "a.pdf",
                "file_data": reference(
                    b"%PDF-" + PCM, "application/pdf", prefix="data:application/pdf;base64,"
                ),
            }
        },
    ),
    "OpenAI generated image": (
        {"type": "image_generation_call", "id": "ig", "result": b64(PNG)},
        {"type": "image_generation_call", "id": "ig", "result": reference(PNG, "image/png")},
    ),
    "Anthropic source": (
        {"source": {"type": "base64", "media_type": "image/webp", "data": b64(PNG)}},
        {
            "source": {
                "type": "base64",
                "media_type": "image/webp",
                "data": reference(PNG, "image/webp"),
            }
        },
    ),
    "Gemini inlineData": (
        {"inlineData": {"mimeType": "video/mp4", "data": b64(PCM)}},
        {"inlineData": {"mimeType": "video/mp4", "data": reference(PCM, "video/mp4")}},
    ),
    "Bedrock bytes": (
        {"image": {"format": "png", "source": {"bytes": b64(PNG)}}},
        {"image": {"format": "png", "source": {"bytes": reference(PNG, "image/png")}}},
    ),
    "Ollama images": ({"images": [b64(PNG)]}, {"images": [reference(PNG, "image/png")]}),
    "base64url without padding": (
        {"mime_type": "audio/x", "data": base64.urlsafe_b64encode(PCM + b"\xff").decode()[:-2]},
        {
            "mime_type": "audio/x",
            "data": reference(PCM + b"\xff", "audio/x", encoding="base64url-unpadded"),
        },
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_large_media_become_references_in_every_dialect(shape: str) -> None:
    given_part, expected = SHAPES[shape]
    history: Json = [{"role": "user", "content": [given_part, {"type": "text", "text": "See"}]}]
    value, blobs = kept(history)
    assert value == [{"role": "user", "content": [expected, {"type": "text", "text": "See"}]}]
    assert len(blobs) == 1
    assert restored(value, blobs) == history


@pytest.mark.parametrize("shape", SHAPES)
def test_media_up_to_the_limit_stay_where_they_are(shape: str) -> None:
    history: Json = [SHAPES[shape][0]]
    assert kept(history, limit=10_000) == (history, {})


@pytest.mark.parametrize("column", ["request_params", "tool_calls", "tool_results", "capture"])
def test_every_json_column_is_looked_through(column: str) -> None:
    value: Json = {"media": [{"inlineData": {"mimeType": "image/png", "data": b64(PNG)}}]}
    found, blobs = kept(value, column=column)
    assert blobs[hashlib.sha256(PNG).hexdigest()].content == PNG
    assert b64(PNG) not in str(found)


def test_one_medium_in_several_forms_is_one_blob() -> None:
    history: Json = [{"image_url": url(PNG)}, {"images": [b64(PNG), b64(PNG)]}]
    value, blobs = kept(history)
    assert len(blobs) == 1
    assert restored(value, blobs) == history


def test_base64_in_lines_is_kept_as_its_text() -> None:
    history: Json = [{"format": "x", "data": base64.encodebytes(PCM).decode()}]
    value, blobs = kept(history)
    (blob,) = blobs.values()
    assert blob.content == base64.encodebytes(PCM)
    assert restored(value, blobs) == history


@pytest.mark.parametrize(
    "value",
    [
        {"type": "redacted_thinking", "data": b64(PCM)},
        {"type": "reasoning", "encrypted_content": b64(PCM)},
        {"type": "thinking", "signature": b64(PCM)},
        {"thoughtSignature": b64(PCM)},
        {"source": {"type": "text", "media_type": "text/plain", "data": "A" * 4000}},
        {"type": "text", "text": b64(PNG)},
        {"result": b64(PNG)},
        {"format": "x", "data": "no base64 but a text with spaces " * 100},
        {"image_url": "data:image/png;base64,<not base64>" + "!" * 3000},
        {"image_url": "https://example.com/" + "a" * 3000},
        "A" * 4000,
    ],
)
def test_what_is_no_medium_stays(value: Json) -> None:
    assert kept([value]) == ([value], {})


LOOKALIKES: list[Json] = [
    {NAME: DIGEST},
    {NAME: DIGEST, "media_type": "image/png", "bytes": 1},
    {NAME: "mine", "n": 1},
    {"$$blob": DIGEST},
    {NAME: DIGEST, "$$blob": 5, "$$$blob": DIGEST},
    {"$$blob": {NAME: DIGEST}},
    {NAME: 7},
]


@pytest.mark.parametrize("value", LOOKALIKES)
def test_a_users_own_json_that_looks_like_a_reference_survives(value: Json) -> None:
    found, blobs = kept([value])
    assert not blobs
    assert not is_reference(found[0] if isinstance(found, list) else None)
    assert restore(found, {DIGEST: b"x"}.get) == [value]


def test_secrets_in_a_file_of_text_are_cleaned_inside() -> None:
    def clean(text: str) -> str:
        return text.replace("hunter2hunter2", "[REDACTED:x]")

    small, large = b"password: hunter2hunter2, as ever", b"hunter2hunter2\n" + b"row\n" * 2000
    for content in (small, large):
        value, blobs = kept([{"file_data": url(content, "text/csv")}], clean=clean)
        cleaned = content.replace(b"hunter2hunter2", b"[REDACTED:x]")
        assert restored(value, blobs) == [{"file_data": url(cleaned, "text/csv")}]


def test_a_short_secret_in_the_place_of_a_medium_stays_in_sight() -> None:
    value: Json = [{"format": "x", "data": "ghpabcdefghijklmnopqrstuvwxyz0123456789ABCDEF="}]
    bare, taken = extract(record(value), lambda text: text, LIMIT)
    assert (bare.chat_history, taken) == (value, {})


def test_a_blob_that_is_gone_leaves_its_reference() -> None:
    value, _ = kept([{"images": [b64(PNG)]}])
    assert restored(value, {}) == value


def test_depth_beyond_any_api_is_left_alone() -> None:
    deep: Json = {NAME: DIGEST, "images": [b64(PNG)]}
    for _ in range(DEPTH_MAX):
        deep = [deep]
    value, blobs = kept([deep])
    assert (value, blobs) == ([deep], {})
    assert restored(value, {DIGEST: Blob(DIGEST, None, b"x")}) == [deep]


MEDIA = st.binary(min_size=24, max_size=80).map(lambda tail: PNG[:8] + tail)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.just(DIGEST),
    MEDIA.map(b64),
    MEDIA.map(url),
    MEDIA.map(lambda content: b64(content).rstrip("=")),
    MEDIA.map(lambda content: base64.urlsafe_b64encode(content).decode()),
    MEDIA.map(lambda content: base64.encodebytes(content).decode()),
)
NAMES = st.sampled_from(
    [NAME, "$$blob", "data", "format", "bytes", "images", "media_type", "type", "prefix", "x"]
)
VALUES = st.recursive(
    TEXTS | st.none() | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(st.lists(VALUES, max_size=4), st.sampled_from([1, 60, 10_000]))
def test_any_value_comes_back_exactly(value: list[Json], limit: int) -> None:
    """restore(extract(value)) is the value, for any value and any limit."""
    stored, blobs = kept(value, limit)
    assert restored(stored, blobs) == value
