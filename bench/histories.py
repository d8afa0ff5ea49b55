"""Histories: the records that the storage benchmark writes, from recordings and made up.

Made-up text is English-like words drawn with a fixed seed, so that it compresses about as prose
and code do, and every run writes the same.
"""

from __future__ import annotations

import gzip
import json
import random
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_OID, uuid5

from proxy.assemble import Assembled, Assembler
from proxy.endpoints import classify
from proxy.enrich.digests import Digests
from proxy.enrich.facts import link_of
from proxy.environment import load
from proxy.exchange import AnswerHead, End, Exchange, Outcome, Piece, Start
from proxy.record import Beside, TelemetryRecord
from tests.turns import recorded
from tests.turns.test_recorders import exchanges

CORPUS = Path(__file__).parents[2] / "shared/corpus"
DIGESTS = Digests(b"a secret of the benchmark")
NOW = datetime.now(UTC).replace(microsecond=0)
SYSTEM_BYTES, TOOLS = 12_000, 16
LETTERS = "etaoinshrdlucmfwypvbgk" * 3 + "jxqz_.,0123456789"


@dataclass(frozen=True)
class Calls:
    """Rows in the order of their calls, with what lies beside them."""

    name: str
    assembled: list[Assembled]


def data_sets() -> Iterator[Calls]:
    """What can be had on this machine."""
    if recorded.HAS_RECORDINGS:
        yield Calls("corpus sequences", list(_corpus()))
        yield Calls("recorded coding agents", list(_agents()))
    yield Calls("laboratory of agents", list(_laboratory()))
    yield Calls("2 KB calls with nothing in common", list(apart(500, 2000)))
    yield Calls("10 KB calls, 80 % in the call before", list(with_history(500)))
    yield Calls("10 agents, 60 rounds, growing to 150 KB", agents(30_000, 150_000))
    yield Calls("10 agents, 60 rounds, 150 KB from the first on", agents(130_000, 150_000))


def _laboratory() -> Iterator[Assembled]:
    """What real frameworks sent in the laboratory's scenarios, with labels and without."""
    assembler = Assembler(load(None, {"HOME": "/"}), DIGESTS)
    return map(assembler.assembled, exchanges())


def agents(first_bytes: int, last_bytes: int, count: int = 10) -> list[Assembled]:
    """Several agents, one after the other; the room of the empty tables is lost among them."""
    return [
        call
        for n in range(count)
        for call in agent(60, first_bytes, last_bytes, session=f"agent {first_bytes} {n}", seed=n)
    ]


class Words:
    """Text of a given length: a few common words among many rare ones.

    PostgreSQL compresses it 1.6 times, as it does the histories of recorded coding agents.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._common = [self._word(1, 4) for _ in range(400)]
        self._rare = [self._word(4, 10) for _ in range(400)]

    def _word(self, shortest: int, longest: int) -> str:
        return "".join(self._chance.choices(LETTERS, k=self._chance.randint(shortest, longest)))

    def sizes(self, count: int, mean: int) -> list[int]:
        """Sizes with this mean: many small ones, a few large ones."""
        drawn = [self._chance.expovariate(1) for _ in range(count)]
        return [int(each * mean * count / sum(drawn)) + 1 for each in drawn]

    def text(self, size: int) -> str:
        count = size // 10 + 2
        common = self._chance.choices(self._common, k=count)
        rare = self._chance.choices(self._rare, k=count)
        return " ".join(word for pair in zip(common, rare, strict=True) for word in pair)[:size]


def agent(
    rounds: int, first_bytes: int, last_bytes: int, *, session: str, seed: int
) -> Iterator[Assembled]:
    """A coding agent: prompt, schemas of tools, and in each round a call of a tool and its result.

    The context, prompt and schemas included, has about `first_bytes` in the first round and
    `last_bytes` in the last. Results are of very different sizes, as files are.
    """
    words = Words(seed)
    system = words.text(SYSTEM_BYTES)
    tools = [
        {"name": f"tool_{n}", "description": words.text(900), "input_schema": {"type": "object"}}
        for n in range(TOOLS)
    ]
    opening = max(400, first_bytes - SYSTEM_BYTES - 1000 * TOOLS)
    history: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": words.text(opening - 400)}]},
        {"role": "user", "content": "Please " + words.text(380)},
    ]
    sizes = words.sizes(rounds, max(300, (last_bytes - first_bytes) // rounds - 500))
    for n, size in enumerate(sizes):
        said, arguments = words.text(250), {"path": words.text(40)}
        id = f"toolu_{seed}_{n}"
        yield _of(
            TelemetryRecord(
                id=uuid5(NAMESPACE_OID, f"{session}/{n}"),
                created_at=NOW + timedelta(seconds=n),
                model_used="model-1",
                duration_ms=1200,
                session_id=session,
                system_prompt=system,
                chat_history=list(history),
                user_message=history[1]["content"],
                response_text=said,
                tool_calls=[{"id": id, "name": "tool_3", "arguments": arguments}],
                request_params={"tools": list(tools), "max_tokens": 4096, "stream": True},
                provider="anthropic",
                endpoint="messages",
                outcome="complete",
                finish_reason="tool_use",
                prompt_tokens=30_000,
                completion_tokens=300,
                total_tokens=30_300,
                capture={"request_bytes": last_bytes},
            )
        )
        use = {"type": "tool_use", "id": id, "name": "tool_3", "input": arguments}
        result = {"type": "tool_result", "tool_use_id": id, "content": words.text(size)}
        history.append({"role": "assistant", "content": [{"type": "text", "text": said}, use]})
        history.append({"role": "user", "content": [result]})


def with_history(calls: int, rounds: int = 10, size: int = 10_000) -> Iterator[Assembled]:
    """Conversations whose calls have so many bytes, of which 80 % were in the call before."""
    for number in range(calls // rounds):
        words = Words(1000 + number)
        turns = [{"role": "user", "content": words.text(size // 5)} for _ in range(rounds + 4)]
        for n in range(rounds):
            yield plain(f"{number}", n, turns[n : n + 5])


def apart(calls: int, size: int) -> Iterator[Assembled]:
    """Calls of one message each, that have nothing in common."""
    words = Words(77)
    for n in range(calls):
        yield plain(f"apart-{size}", n, [{"role": "user", "content": words.text(size)}])


def plain(session: str, number: int, history: list[dict[str, str]]) -> Assembled:
    return _of(
        TelemetryRecord(
            id=uuid5(NAMESPACE_OID, f"{session}/{number}"),
            created_at=NOW + timedelta(seconds=number),
            model_used="model-1",
            duration_ms=900,
            session_id=session,
            chat_history=list(history),
            user_message=history[-1]["content"],
            response_text="done",
            provider="openai",
            endpoint="chat.completions",
            outcome="complete",
            finish_reason="stop",
            capture={"request_bytes": 1},
        )
    )


def _of(record: TelemetryRecord) -> Assembled:
    return Assembled(record, Beside(link=link_of(record, DIGESTS)))


def _agents() -> Iterator[Assembled]:
    assembler = Assembler(load(None, {"HOME": "/"}), DIGESTS)
    for number, scenario in enumerate(recorded.scenarios()):
        for record in scenario.records:
            yield assembler.assembled(recorded.exchange_of(record, number, is_bare=False))


def _corpus() -> Iterator[Assembled]:
    """The recordings that hold several calls of one program, in the order of their sequences."""
    assembler = Assembler(load(None, {"HOME": "/"}), DIGESTS)
    for file in sorted(CORPUS.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if record.get("sequence") and (exchange := _exchange(record)):
                    yield assembler.assembled(exchange)


def _exchange(record: dict[str, object]) -> Exchange | None:
    request, response = record["request"], record["response"]
    assert isinstance(request, dict)
    assert isinstance(response, dict)
    endpoint = classify(request["method"], urlsplit(request["path"]).path)
    if endpoint is None or endpoint.name == "":
        return None
    body = b64decode(response["body_b64"] or "")
    return Exchange(
        Start(
            id=uuid5(NAMESPACE_OID, str(record["id"])),
            at_ns=recorded.BEGIN_NS,
            upstream=str(record["provider"]),
            dialect=endpoint.dialect,
            endpoint=endpoint.name,
            method=request["method"],
            target=request["path"],
            headers=tuple((k.lower(), v) for k, v in request["headers"].items()),
        ),
        b64decode(request["body_b64"] or ""),
        AnswerHead(
            0, response["status"], tuple((k.lower(), v) for k, v in response["headers"].items())
        ),
        (Piece(0, body),) if body else (),
        End(1000, Outcome.COMPLETE),
    )
