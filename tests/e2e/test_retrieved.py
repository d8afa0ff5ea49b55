"""Background responses: what is retrieved later completes the row of the call that began it."""

from __future__ import annotations

import gzip
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from proxy import stream_source
from proxy.exchange import AnswerHead, End, Outcome, Start
from proxy.spool.writer import SpoolWriter
from proxy.wire.tap import mint_id
from tests.decode.doubted import COMPLETED_LATER
from tests.e2e.pipeline import Pipeline, pipeline

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"
REQUEST = {"model": "gpt-5", "input": "think long", "background": True}
QUEUED = {"id": "resp_1", "object": "response", "model": "gpt-5", "status": "queued", "output": []}
ITEM = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "forty-two"}],
}
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
USAGE = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}
DONE = QUEUED | {"status": "completed", "output": [ITEM, CALL], "usage": USAGE}
FAILED = QUEUED | {"status": "failed", "error": {"message": "out of luck"}}


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def write(
    writer: SpoolWriter,
    answer: bytes,
    at_ms: int,
    *,
    is_retrieval: bool = True,
    content: str = "full",
    outcome: Outcome = Outcome.COMPLETE,
) -> UUID:
    """The call that begins the response, or one that asks for it, as the gateway records it."""
    at_ns = (1_800_000_000_000 + at_ms) * 10**6
    endpoint = "responses.retrieve" if is_retrieval else "responses"
    start = Start(
        mint_id(at_ns), at_ns, "openai", "openai", endpoint, "GET", "/v1/responses", content=content
    )
    writer.start(start)
    if not is_retrieval:
        writer.request(start.id, 1, json.dumps(REQUEST).encode())
    kind = "text/event-stream" if answer.startswith(b"data:") else "application/json"
    writer.head(start.id, AnswerHead(2, 200, (("content-type", kind),)))
    writer.response(start.id, 3, answer)
    writer.end(start.id, End(4, outcome))
    return start.id


@pytest.fixture
async def stand(tmp_path, dsn, transport, monkeypatch) -> AsyncIterator[Pipeline]:
    monkeypatch.setattr(stream_source, "RETRIEVED_S", 1.0)
    async with pipeline(tmp_path, dsn, "http://127.0.0.1:1", **transport) as found:
        yield found


async def row_after(stand: Pipeline, *retrieved: bytes, begun: bytes, **options: Any):
    """The call's row once all that was retrieved has been dealt with."""
    writer = SpoolWriter(stand.config.spool_dir, max_bytes=2**30)
    write(writer, begun, 0, is_retrieval=False, **options)
    for number, answer in enumerate(retrieved, 1):
        write(writer, answer, number)
    async with stand.recording():
        await stand.until_settled()
    writer.close()
    (row,) = await stand.rows()
    return row


def plain(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


IN_PROGRESS = {"type": "response.created", "response": QUEUED | {"status": "in_progress"}}
BEGUN_AS_STREAM = stream(IN_PROGRESS)
REST = stream({"type": "response.completed", "response": DONE})


@pytest.mark.parametrize(
    ("begun", "retrieved"),
    [
        pytest.param(plain(QUEUED), [plain(QUEUED), plain(DONE)], id="polled"),
        pytest.param(plain(QUEUED), [plain(DONE), plain(QUEUED), plain(FAILED)], id="never back"),
        pytest.param(plain(QUEUED), [plain(DONE)] * 3, id="asked for again"),
        pytest.param(plain(QUEUED), [BEGUN_AS_STREAM, REST], id="streamed"),
    ],
)
async def test_what_is_retrieved_completes_the_row_once(stand, begun, retrieved):
    row = await row_after(stand, *retrieved, begun=begun)
    assert (row["response_text"], row["finish_reason"], row["outcome"]) == (
        "forty-two",
        "completed",
        "complete",
    )
    assert row["tool_calls"] == [{"id": "c1", "name": "look", "arguments": {}}]
    assert (row["prompt_tokens"], row["completion_tokens"]) == (1000, 100)
    assert (row["usage"], row["usage_source"]) == (USAGE, "provider")
    assert row["cost_usd"] > 0
    assert row["user_message"] == "think long"
    assert row["capture"]["completed_by"]
    assert stand.sums().stored == 1 + len(retrieved)


async def test_a_stream_that_broke_is_completed(stand):
    row = await row_after(stand, REST, begun=BEGUN_AS_STREAM, outcome=Outcome.CLIENT_DISCONNECTED)
    assert (row["outcome"], row["response_text"]) == ("complete", "forty-two")


async def test_a_response_that_failed_later_says_so(stand):
    row = await row_after(stand, plain(FAILED), begun=plain(QUEUED))
    assert (row["finish_reason"], row["outcome"], row["error"]) == (
        "failed",
        "stream_error",
        "out of luck",
    )


@pytest.mark.parametrize(
    "retrieved",
    [
        pytest.param(plain(QUEUED), id="still open"),
        pytest.param(plain(DONE | {"id": "resp_2"}), id="another"),
        pytest.param(b"<html>", id="no response"),
        pytest.param(BEGUN_AS_STREAM, id="a stream that broke"),
    ],
)
async def test_what_tells_nothing_of_its_end_changes_nothing(stand, retrieved):
    row = await row_after(stand, retrieved, begun=plain(QUEUED))
    assert (row["response_text"], row["finish_reason"]) == (None, "queued")
    assert "completed_by" not in row["capture"]


async def test_a_row_that_was_complete_stays_as_it_is(stand):
    other = DONE | {"output": [ITEM | {"content": [{"type": "output_text", "text": "43"}]}]}
    row = await row_after(stand, plain(other), begun=plain(DONE))
    assert row["response_text"] == "forty-two"


async def test_a_row_without_content_gains_none(stand):
    row = await row_after(stand, plain(DONE), begun=plain(QUEUED), content="metadata")
    assert (row["finish_reason"], row["completion_tokens"]) == ("completed", 100)
    assert row["response_text"] is None
    assert "forty-two" not in json.dumps(row, default=str)


@pytest.mark.parametrize("first", [0, 1])
async def test_the_call_may_be_read_after_what_retrieved_it(tmp_path, dsn, first, transport):
    sections = {"store": {"batch_rows": 1, "batch_delay_ms": 1}} | transport
    async with pipeline(tmp_path, dsn, "http://127.0.0.1:1", **sections) as stand:
        writers = [SpoolWriter(stand.config.spool_dir, max_bytes=2**30) for _ in range(2)]
        write(writers[first], plain(QUEUED), 0, is_retrieval=False)
        write(writers[1 - first], plain(DONE), 1)
        async with stand.recording():
            await stand.until_settled()
        (row,) = await stand.rows()
        for writer in writers:
            writer.close()
    assert row["response_text"] == "forty-two"


def recorded() -> Iterator[tuple[str, bytes, list[bytes]]]:
    """Recordings that began a background response: id, answer, and the answers retrieved later."""
    begun: dict[str, tuple[str, bytes]] = {}
    retrieved: dict[str, list[bytes]] = {}
    for name in ("openai.responses", "openai.other"):
        with gzip.open(CORPUS / f"{name}.jsonl.gz") as lines:
            for line in filter(lambda text: b"background" in text or b'"GET"' in text, lines):
                exchange = json.loads(line)
                request, body = exchange["request"], exchange["response"].get("body_b64")
                answer = b64decode(body or "")
                if request["method"] == "GET" and "/responses/resp" in request["path"]:
                    id = request["path"].partition("?")[0].rpartition("/")[2]
                    retrieved.setdefault(id, []).append(answer)
                elif (
                    answer.startswith(b"{")
                    and b'"queued"' in answer
                    and json.loads(answer).get("status") == "queued"
                ):
                    begun[json.loads(answer)["id"]] = (exchange["id"], answer)
    for id in sorted(begun.keys() & retrieved.keys()):
        if any(json.loads(answer)["status"] == "completed" for answer in retrieved[id]):
            yield *begun[id], retrieved[id]


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not beside the repository")
async def test_recorded_background_responses_are_completed(tmp_path, dsn):
    cases = list(recorded())
    assert {recording for recording, *_ in cases} == set(COMPLETED_LATER)
    async with pipeline(tmp_path, dsn, "http://127.0.0.1:1") as stand:
        writer = SpoolWriter(stand.config.spool_dir, max_bytes=2**30)
        for number, (_, begun, answers) in enumerate(cases):
            write(writer, begun, 100 * number, is_retrieval=False)
            for later, answer in enumerate(answers, 1):
                write(writer, answer, 100 * number + later)
        async with stand.recording():
            await stand.until_settled()
        rows = await stand.rows()
        writer.close()
    assert [row["finish_reason"] for row in rows] == ["completed"] * len(cases)
    assert all(row["response_text"] or row["tool_calls"] for row in rows)
    assert all(row["usage_source"] == "provider" for row in rows)
