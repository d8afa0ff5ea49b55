"""Every recorded exchange of the development corpus, decoded and compared with what the
providers' own SDKs made of the same bytes, under the rules the corpus itself brings.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable
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
from tests.decode.doubted import DOUBTS

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"
# Fields that other stages fill in.
ELSEWHERE = {"session", "hashes", "no_cred"}
DOUBTED = {(id, field) for doubt in DOUBTS for id, of in doubt.found.items() for field in of}

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
    differences: dict[tuple[str, str], tuple[Any, Any]] = {}
    compared = Counter[str]()
    for recorded in recordings:
        row = row_of(recorded, exchange_of(recorded))
        for field, expected, got, verdict in rules.compare(recorded, row, {"label": None}):
            if verdict is None or field in ELSEWHERE:
                continue
            compared[field] += 1
            if not verdict:
                differences[recorded.id, field] = (expected, got)
    assert compared["text"] > 3000
    unexpected = {where: differences[where] for where in differences.keys() - DOUBTED}
    assert not unexpected, f"{len(unexpected)} differ: {list(unexpected.items())[:20]}"
    assert differences.keys() == DOUBTED, "some are doubted without need"


def test_how_an_answer_was_cut_into_pieces_changes_nothing(recordings: list[Any]) -> None:
    chosen = random.Random(1)
    for recorded in chosen.sample(recordings, 200):
        length = len(recorded.response_body)
        cuts = sorted(chosen.randrange(length) for _ in range(min(length, 50)))
        whole, split = decode(exchange_of(recorded)), decode(exchange_of(recorded, cuts))
        assert without_arrival(whole) == without_arrival(split), recorded.id


def in_several_lines(body: bytes) -> bytes:
    """Every document of the stream indented, each of its lines in a `data:` of its own."""
    lines = []
    for line in body.splitlines():
        name, _, value = line.partition(b":")
        if name == b"data" and value.lstrip().startswith(b"{"):
            lines += [b"data: " + part for part in indented(value).splitlines()]
        else:
            lines.append(line)
    return b"\n".join(lines) + b"\n"


def indented(document: bytes) -> bytes:
    return json.dumps(json.loads(document), indent=1).encode()


def with_line_ends(end: bytes) -> Callable[[bytes], bytes]:
    return lambda body: end.join(body.replace(b"\r\n", b"\n").split(b"\n"))


@pytest.mark.parametrize(
    "framed",
    [
        pytest.param(with_line_ends(b"\n"), id="LF"),
        pytest.param(with_line_ends(b"\r\n"), id="CRLF"),
        pytest.param(with_line_ends(b"\r"), id="CR"),
        pytest.param(lambda body: b"\xef\xbb\xbf" + body, id="byte order mark"),
        pytest.param(lambda body: b": hello\n\nretry: 5\nid: 1\n" + body, id="comments first"),
        pytest.param(lambda body: body.replace(b"data: ", b"data:"), id="no space"),
        pytest.param(lambda body: body.replace(b"data:", b": x\nid: 7\ndata:"), id="comments"),
        pytest.param(lambda body: body.rstrip(b"\r\n"), id="last blank line missing"),
        pytest.param(in_several_lines, id="several data lines"),
    ],
)
def test_how_a_stream_is_framed_changes_nothing(
    recordings: list[Any], framed: Callable[[bytes], bytes]
) -> None:
    streams = [
        recorded
        for recorded in recordings
        if recorded.response_body.startswith((b"data:", b"event:")) and recorded.status < 400
    ]
    chosen = random.Random(2).sample(streams, 100)
    for recorded in chosen:
        whole = exchange_of(recorded)
        other = replace(whole, response=(Piece(0, framed(recorded.response_body)),))
        assert without_arrival(decode(other)) == without_arrival(decode(whole)), recorded.id


def without_arrival(call: ModelCall) -> ModelCall:
    return replace(call, answer=replace(call.answer, first_content_us=None))
