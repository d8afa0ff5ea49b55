"""How close the token estimate comes to what providers reported, on recorded calls.

    python bench/token_accuracy.py CORPUS_DIR

Hides the usage of each recorded call, estimates it, and prints a Markdown table per provider and
endpoint: median and 95th percentile of the absolute error. `text` rows leave out calls with images,
files, hidden reasoning, tools that the provider runs and context that is not on the wire.
"""

from __future__ import annotations

import base64
import gzip
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit
from uuid import UUID

from proxy.call import ModelCall, Usage
from proxy.decode.dispatch import decode
from proxy.endpoints import classify
from proxy.enrich.tokens import TokenCounter
from proxy.exchange import AnswerHead, End, Exchange, Outcome, Piece, Start

NOT_TEXT = ("image", "file", "audio", "document", "inlineData", "inline_data", "fileData", "video")


@dataclass(frozen=True, slots=True)
class Sample:
    """One recorded call with reported usage beside its estimate."""

    id: str
    provider: str
    endpoint: str
    model: str
    is_plain: bool
    has_tools: bool
    usage: Usage
    prompt: int
    completion: int


def samples(corpus: Path) -> Iterator[Sample]:
    """Every recorded call that was answered with final usage."""
    counter = TokenCounter()
    for file in sorted(corpus.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                if sample := _sample(json.loads(line), counter):
                    yield sample


def _sample(record: dict, counter: TokenCounter) -> Sample | None:
    request, response = record["request"], record["response"]
    path = urlsplit(request["path"]).path
    endpoint = classify(request["method"], path)
    is_stand_in = record.get("authenticity") == "response_only"
    if endpoint is None or response["status"] != 200 or is_stand_in:
        return None
    call = decode(_exchange(record, endpoint.dialect, endpoint.name))
    usage = call.answer.usage
    if usage is None or not usage.is_final or not usage.prompt_tokens:
        return None
    estimate = counter.estimate(call, endpoint.name)
    return Sample(
        record["id"],
        record["provider"],
        endpoint.name,
        call.model,
        _is_plain(call, base64.b64decode(request["body_b64"] or "")),
        not {"tools", "toolConfig"}.isdisjoint(call.prompt.request_params or {}),
        usage,
        estimate.prompt_tokens,
        estimate.completion_tokens,
    )


def _exchange(record: dict, dialect: str, endpoint: str) -> Exchange:
    request, response = record["request"], record["response"]
    start = Start(
        UUID(int=0),
        0,
        record["provider"],
        dialect,
        endpoint,
        request["method"],
        request["path"],
        tuple(request["headers"].items()),
    )
    body = base64.b64decode(response["body_b64"] or "")
    return Exchange(
        start,
        base64.b64decode(request["body_b64"] or ""),
        AnswerHead(0, response["status"], tuple(response["headers"].items())),
        (Piece(0, body),),
        End(0, Outcome.COMPLETE),
    )


def _is_plain(call: ModelCall, body: bytes) -> bool:
    usage = call.answer.usage
    has_media = any(f'"{word}'.encode() in body for word in NOT_TEXT)
    has_server_tools = any(tool.is_server for tool in call.answer.tool_calls)
    is_reasoned = bool(usage and usage.reasoning_tokens) or call.answer.thoughts is not None
    return not (has_media or has_server_tools or is_reasoned or call.prompt.is_partial_context)


def _table(found: list[Sample]) -> Iterator[str]:
    yield "| calls of | number | prompt: median | p95 | completion: median | p95 |"
    yield "|---|---:|---:|---:|---:|---:|"
    groups: dict[str, list[Sample]] = {}
    for sample in found:
        name = f"{sample.provider} {sample.endpoint}"
        groups.setdefault(f"{name}, all", []).append(sample)
        if sample.is_plain:
            kind = "text and tools" if sample.has_tools else "text"
            groups.setdefault(f"{name}, {kind}", []).append(sample)
    for name, members in sorted(groups.items()):
        prompts = _errors([(s.prompt, s.usage.prompt_tokens) for s in members])
        completions = _errors([(s.completion, s.usage.completion_tokens) for s in members])
        yield f"| {name} | {len(members)} | {prompts} | {completions} |"


def _errors(pairs: list[tuple[int, int | None]]) -> str:
    errors = sorted(abs(estimated - told) / told for estimated, told in pairs if told)
    if not errors:
        return "– | –"
    return f"{median(errors):.1%} | {errors[int(len(errors) * 0.95)]:.1%}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python bench/token_accuracy.py CORPUS_DIR")
    print("\n".join(_table(list(samples(Path(sys.argv[1]))))))
