"""One exchange becomes one row: what is kept of it, where, and under which setting."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.assemble import Assembled, Assembler
from proxy.captured import unpacked
from proxy.enrich.digests import Digests
from proxy.enrich.media import restore
from proxy.environment import load
from proxy.exchange import Exchange, Labels, Outcome
from proxy.turn import End
from proxy.wire.refusals import Refusal
from tests.pipeline.exchanges import chat, exchange

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400
GITHUB = "ghp_" + "a1B2c3D4e5F6" * 3
IMAGE = {
    "type": "image_url",
    "image_url": {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()},
}


def assembled(given: Exchange, tmp_path: Path, **settings: str) -> Assembled:
    environ = {f"AGENT_TELEMETRY__{key}": value for key, value in settings.items()}
    config = load(None, {"AGENT_TELEMETRY__DATA_DIR": str(tmp_path), **environ})
    return Assembler(config).assembled(given)


def capture_of(found: Assembled) -> dict[str, Any]:
    assert found.record.capture is not None
    return found.record.capture


def test_a_large_picture_lies_beside_the_row_and_is_counted_by_its_size(tmp_path: Path) -> None:
    given = chat([{"type": "text", "text": "See"}, IMAGE])
    found = assembled(given, tmp_path)
    (blob,) = found.beside.blobs
    assert (blob.media_type, blob.content) == ("image/png", PNG)
    assert capture_of(found)["blobs"] == [blob.sha256] == [hashlib.sha256(PNG).hexdigest()]
    stored: Any = found.record.chat_history
    assert stored[0]["content"][1]["image_url"]["url"]["$blob"] == blob.sha256
    lookup = {blob.sha256: blob.content}.get
    assert restore(stored, lookup) == json.loads(given.request)["messages"]


def test_a_small_picture_stays_inline_and_is_not_searched_for_secrets(tmp_path: Path) -> None:
    # The base64 of a picture that holds what looks like a token.
    hidden = base64.b64decode("aGkh" + GITHUB.replace("_", "/") + "AAAA")
    url = "data:image/gif;base64," + base64.b64encode(b"GIF89a" + hidden).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}]
    found = assembled(chat(content), tmp_path)
    assert found.record.chat_history == [{"role": "user", "content": content}]
    assert not found.beside.blobs


def test_generated_media_are_kept(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": None, "images": [IMAGE]}
    found = assembled(chat("draw", answer), tmp_path)
    (blob,) = found.beside.blobs
    assert blob.content == PNG
    assert restore(capture_of(found)["media"], {blob.sha256: PNG}.get) == [IMAGE]


@pytest.mark.parametrize("content", ["full", "metadata"])
def test_a_refusal_is_noted_whatever_is_kept(content: str, tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": None, "refusal": "I cannot."}
    given = chat("x", answer)
    given = replace(given, start=replace(given.start, content=content))
    config = load(None, {"AGENT_TELEMETRY__DATA_DIR": str(tmp_path)})
    found = Assembler(config, Digests(b"a secret")).assembled(given)
    assert capture_of(found)["refusal"] is True
    assert found.beside.link is not None
    assert found.beside.link.facts.end is End.REFUSED


def test_secrets_beside_a_picture_are_redacted(tmp_path: Path) -> None:
    found = assembled(chat([{"type": "text", "text": f"use {GITHUB}"}, IMAGE]), tmp_path)
    assert GITHUB not in str(found.record)
    # In the history, in the user message, and repeated by the answer.
    assert capture_of(found)["redactions"] == {"github_token": 3}
    assert found.beside.blobs


def test_metadata_only_keeps_neither_content_nor_media_nor_the_raw_exchange(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "said", "images": [IMAGE]}
    given = chat([{"type": "text", "text": "asked"}, IMAGE], answer, content="metadata")
    found = assembled(given, tmp_path, CAPTURE__RAW="all")
    assert not found.beside.blobs
    assert found.beside.raw is None
    assert "asked" not in str(found.record)
    assert "said" not in str(found.record)
    assert "image" not in str(found.record)
    assert (found.record.prompt_tokens, found.record.model_used) == (7, "gpt-4o-mini")


def test_labels_are_redacted_where_content_is_not_kept(tmp_path: Path) -> None:
    given = chat("x", content="metadata", labels=Labels(extra=(("note", GITHUB),)))
    found = assembled(given, tmp_path)
    assert found.record.labels == {"note": "[REDACTED:github_token]"}


@pytest.mark.parametrize(("raw", "is_kept"), [("all", True), ("quarantine", False), ("off", False)])
def test_the_raw_exchange_is_kept_where_so_configured(
    tmp_path: Path, raw: str, is_kept: bool
) -> None:
    given = chat("x")
    found = assembled(given, tmp_path, CAPTURE__RAW=raw).beside.raw
    assert (found is not None) == is_kept
    if found is not None:
        assert unpacked(found) == given


def test_bodies_that_decompress_to_more_than_is_kept_are_cut_and_marked(tmp_path: Path) -> None:
    long = json.dumps({"model": "m", "choices": [], "x": "y" * 10_000}).encode()
    packed_headers = (("content-encoding", "gzip"),)
    given = exchange(
        gzip.compress(long),
        gzip.compress(long),
        answer_headers=packed_headers,
        headers=packed_headers,
    )
    found = assembled(given, tmp_path, CAPTURE__MAX_BODY_BYTES="2048")
    assert capture_of(found)["truncated"] == {
        "request": 0,
        "response": 0,
        "decoded": ["request", "response"],
    }
    assert "truncated" not in capture_of(assembled(given, tmp_path))


def test_bytes_that_the_wire_did_not_keep_are_counted(tmp_path: Path) -> None:
    given = chat("x")
    assert given.end is not None
    cut = replace(given, end=replace(given.end, response_kept=given.end.response_bytes - 5))
    assert capture_of(assembled(cut, tmp_path))["truncated"] == {"request": 0, "response": 5}


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.UPSTREAM_TIMEOUT, 504),
        (Outcome.UPSTREAM_RESET, 502),
        (Outcome.UPSTREAM_UNREACHABLE, 502),
        (Outcome.CLIENT_DISCONNECTED, 408),
    ],
)
def test_an_error_that_the_gateway_answered_itself_is_no_answer_of_the_provider(
    tmp_path: Path, outcome: Outcome, status: int
) -> None:
    answered = Refusal(status, "the upstream was silent for 600 s", "openai").body
    given = exchange(chat("x").request, answered, status=status)
    assert given.end is not None
    ended = replace(given, end=replace(given.end, outcome=outcome, error="told"))
    row = assembled(ended, tmp_path).record
    assert (row.outcome, row.status) == (outcome.value, status)
    assert row.error == "agent-telemetry: the upstream was silent for 600 s"


def test_a_gateway_that_died_after_an_error_was_answered_leaves_that_error(tmp_path: Path) -> None:
    given = exchange(chat("x").request, b'{"error": {"message": "slow down"}}', status=429)
    assert given.end is not None
    ended = replace(given, end=replace(given.end, outcome=Outcome.PROXY_CRASHED))
    row = assembled(ended, tmp_path).record
    assert (row.outcome, row.error) == ("upstream_error", "slow down")
