"""Every recorded exchange of the development corpus, decoded and compared with what the
providers' own SDKs made of the same bytes, under the rules the corpus itself brings.
"""

from __future__ import annotations

import importlib
import random
import sys
import warnings
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from proxy.call import ModelCall
from proxy.decode.dispatch import decode
from proxy.endpoints import classify
from proxy.exchange import AnswerHead, Exchange, Outcome, Piece, Start

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"
# Fields that other stages fill in.
ELSEWHERE = {"session", "hashes", "no_cred"}
# Expectations that do not hold what the bytes hold: ids, and why.
DOUBTED = {
    "two messages glued into one stream; the SDK adds the second's deltas to the first's blocks": (
        *("44b37bc873c1", "a36072ec8afe", "69bc3699aad1", "3daa65137736", "eb3a89e83c6f"),
    ),
    "arguments streamed in pieces; the SDK makes each piece a call without a name": (
        *("78a5bfeee7db", "dbc0969bc6ef", "1ce8e0581309", "17235f428a09"),
    ),
    "the SDK raises at the error event; what came before it was delivered and is kept": (
        *("3bd96599b84c", "efde280ab598", "70db9157865e"),
    ),
    "the tool is marked as one that the provider runs": (
        *("a45d70edb53c", "05f3d111a1af", "3fbd7a1442d0"),
    ),
    "the plan is in the stream; the SDK's events have no place for it": (
        *("4c47d3ce074c", "8ed304cee28c", "8a36f0018819", "ce2d4d2540f3"),
    ),
    "thoughts that stand in reasoning_details only": ("926537c5226a", "ca678a777d36"),
    "arguments `null` mean none": ("b5e10e2a339a",),
    "the transcript of a spoken answer is its text": ("ed38948cc52b",),
    "the count of the prompt is missing, not 0": ("e9bc49d07b4e",),
    "a stream under a request that asks for none (the request is a stand-in)": ("9e0eb50dd433",),
}
DOUBTED_IDS = {found for ids in DOUBTED.values() for found in ids}
FIELDS_OF_DOUBT = {"text", "thoughts", "tool_calls", "prompt", "streamed"}

pytestmark = pytest.mark.skipif(
    not (CORPUS / "corpus_check").is_dir(), reason="the corpus is not beside the repository"
)


@pytest.fixture(scope="module")
def rules() -> Any:
    sys.path.insert(0, str(CORPUS))
    try:
        return importlib.import_module("corpus_check.rules")
    finally:
        sys.path.remove(str(CORPUS))


@pytest.fixture(scope="module")
def recordings(rules: Any) -> list[Any]:
    """The recorded model calls."""
    found = rules.Exchange.__module__
    load = importlib.import_module(found).load
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files to the collector
        recordings = load(str(CORPUS)).values()
    return [recorded for recorded in recordings if recorded.kind == "call"]


def exchange_of(recorded: Any, cuts: list[int] | None = None) -> Exchange:
    """A recording as the gateway would have spooled it, its answer cut at these offsets."""
    endpoint = classify(recorded.method, recorded.path.partition("?")[0])
    assert endpoint is not None, recorded.path
    body = recorded.response_body
    edges = [0, *(cuts or []), len(body)]
    return Exchange(
        Start(
            id=UUID(int=0),
            at_ns=0,
            upstream=recorded.upstream,
            dialect=recorded.upstream_dialect,
            endpoint=endpoint.name,
            method=recorded.method,
            target=recorded.path,
            headers=tuple(recorded.request_headers.items()),
        ),
        recorded.request_body,
        AnswerHead(0, recorded.status, tuple(recorded.response_headers.items())),
        tuple(Piece(at_us, body[start:end]) for at_us, (start, end) in enumerate(pairwise(edges))),
    )


def row_of(recorded: Any, exchange: Exchange) -> dict[str, Any]:
    """What the comparison reads of a row."""
    call = decode(exchange)
    answer, usage = call.answer, call.answer.usage
    outcome = Outcome.STREAM_ERROR if answer.is_stream_error else Outcome.COMPLETE
    if recorded.status >= 400:
        outcome = Outcome.UPSTREAM_ERROR
    return {
        "status": recorded.status,
        "outcome": outcome.value,
        "streamed": answer.is_stream,
        "session_id": None,
        "model_used": call.model[:255],
        "leaks_credential": False,
        "system_prompt": call.prompt.system_prompt,
        "history": len(call.prompt.chat_history),
        "error": answer.error,
        "text": answer.text,
        "thoughts": answer.thoughts,
        "tool_calls": [found.as_json() for found in answer.tool_calls] or None,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": usage and usage.prompt_tokens,
        "completion_tokens": usage and usage.completion_tokens,
        "total_tokens": usage and usage.total_tokens,
        "usage_source": "provider" if usage and usage.is_final else None,
        "capture": {},
    }


def test_every_recording_is_read_as_the_providers_sdk_reads_it(
    rules: Any, recordings: list[Any]
) -> None:
    differences = []
    compared = Counter[str]()
    for recorded in recordings:
        row = row_of(recorded, exchange_of(recorded))
        for field, expected, got, verdict in rules.compare(recorded, row, {"label": None}):
            if verdict is None or field in ELSEWHERE:
                continue
            compared[field] += 1
            if recorded.id in DOUBTED_IDS and field in FIELDS_OF_DOUBT:
                continue
            if not verdict:
                differences.append((recorded.id, recorded.group, field, expected, got))
    assert compared["text"] > 3000
    assert len(DOUBTED_IDS) < 0.01 * compared["text"]
    assert not differences, f"{len(differences)} differ: {differences[:20]}"


def test_how_an_answer_was_cut_into_pieces_changes_nothing(recordings: list[Any]) -> None:
    chosen = random.Random(1)
    for recorded in chosen.sample(recordings, 200):
        length = len(recorded.response_body)
        cuts = sorted(chosen.randrange(length) for _ in range(min(length, 50)))
        whole, split = decode(exchange_of(recorded)), decode(exchange_of(recorded, cuts))
        assert without_arrival(whole) == without_arrival(split), recorded.id


def without_arrival(call: ModelCall) -> ModelCall:
    return replace(call, answer=replace(call.answer, first_content_us=None))
