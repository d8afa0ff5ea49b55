"""Every recorded body, with its media taken out and put back."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from proxy.call import Json
from proxy.enrich.media import extract, restore, settle
from proxy.record import TelemetryRecord

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"
LIMIT = 200

pytestmark = pytest.mark.skipif(
    not (CORPUS / "corpus_check").is_dir(), reason="the corpus is not beside the repository"
)


def bodies() -> Iterator[Json]:
    for file in sorted(CORPUS.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                for side in ("request", "response"):
                    try:
                        yield json.loads(base64.b64decode(record[side]["body_b64"] or ""))
                    except ValueError:
                        continue


def test_recorded_media_come_back_exactly() -> None:
    created_at, taken = datetime(2026, 1, 1, tzinfo=UTC), 0
    for body in bodies():
        row = TelemetryRecord(UUID(int=1), created_at, "m", 1, chat_history=[body])
        settled, blobs = settle(*extract(row, lambda text: text, LIMIT), LIMIT)
        contents = {blob.sha256: blob.content for blob in blobs}
        assert restore(list(settled.chat_history), contents.get) == [body]
        taken += len(blobs)
    assert taken > 100
