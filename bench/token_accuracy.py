"""How close the token estimate comes to what providers reported, on recorded calls.

    python bench/token_accuracy.py CORPUS_DIR

Hides the usage of each recorded call, estimates it, and prints a Markdown table per provider and
endpoint: median and 95th percentile of the absolute error. `text` rows leave out calls with images,
files, hidden reasoning, tools that the provider runs and context that is not on the wire. A second
table checks the constants against calls they were not fitted to.
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

GROUP_MIN = 10  # calls; fewer have no 95th percentile to speak of
HALF_MIN = 15  # calls; fewer say nothing about a scale
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
    is_answered = request["method"] == "POST" and response["status"] == 200
    if endpoint is None or not is_answered or is_stand_in:
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
        if len(members) < GROUP_MIN:
            continue
        prompts = _errors([_prompt(sample) for sample in members])
        completions = _errors([_completion(sample) for sample in members])
        yield f"| {name} | {len(members)} | {prompts} | {completions} |"


def _held_out(found: list[Sample]) -> Iterator[str]:
    """Whether the constants fit calls they were not fitted to.

    Calls are halved by their id. The first half says by which factor its estimates would have to be
    scaled; the second half shows the error as it is, and with that factor.
    """
    yield "| calls of | number | scale: prompt | completion | prompt: as is | scaled | completion: as is | scaled |"  # noqa: E501 - one row of a table
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    groups: dict[str, list[Sample]] = {}
    for sample in found:
        if sample.is_plain:
            groups.setdefault(f"{sample.provider} {sample.endpoint}", []).append(sample)
    for name, members in sorted(groups.items()):
        halves = [[s for s in members if int(s.id[-1], 16) % 2 == half] for half in (0, 1)]
        if min(map(len, halves)) >= HALF_MIN:
            yield f"| {name} | {len(halves[1])} | {_scaled(*halves)} |"


def _scaled(fitted: list[Sample], held_out: list[Sample]) -> str:
    scales, errors = [], []
    for counts in (_prompt, _completion):
        ratios = [told / estimated for estimated, told in map(counts, fitted) if estimated and told]
        scale = median(ratios) if ratios else 1.0
        scales.append(f"{scale:.3f}")
        for factor in (1.0, scale):
            pairs = [(round(estimated * factor), told) for estimated, told in map(counts, held_out)]
            errors.append(_errors(pairs).partition(" ")[0])
    return " | ".join((*scales, *errors))


def _prompt(sample: Sample) -> tuple[int, int | None]:
    return sample.prompt, sample.usage.prompt_tokens


def _completion(sample: Sample) -> tuple[int, int | None]:
    return sample.completion, sample.usage.completion_tokens


def _errors(pairs: list[tuple[int, int | None]]) -> str:
    errors = sorted(abs(estimated - told) / told for estimated, told in pairs if told)
    if not errors:
        return "– | –"
    return f"{median(errors):.1%} | {errors[int(len(errors) * 0.95)]:.1%}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python bench/token_accuracy.py CORPUS_DIR")
    measured = list(samples(Path(sys.argv[1])))
    print("\n".join([*_table(measured), "", *_held_out(measured)]))
