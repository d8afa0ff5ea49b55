"""What recording costs behind the gateway: a spool full of calls, worked off by one recorder.

    python -m bench.backlog [--calls N] [--fresh | --meanwhile] [--write]

The calls are an agent's: conversations of nine rounds whose requests have 10 KB on average, of
which four fifths were in an earlier request. `--fresh`: every call is the only one of its
conversation and nothing in it came before. Redaction is on, and the agent's key is looked for in
every text. Stated are CPU seconds of the recorder's process and of PostgreSQL's until all rows are
committed, and afterwards what linking them into turns took: until then the linker's lock is held
here, so that neither is part of the other. `--meanwhile`: rows are linked while others are written,
as they are when nobody measures, and the figures of the recorder hold both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from statistics import median

import asyncpg
import orjson
import uvloop

from bench import report
from bench.processes import cpu_s, pss_bytes, tree
from bench.targets import ROOT
from proxy.exchange import AnswerHead, End, Labels, Outcome, Secret, Start
from proxy.spool.totals import read_totals, summed
from proxy.spool.writer import SpoolWriter
from proxy.store.embedded import EmbeddedServer
from proxy.store.links import LOCK
from proxy.wire.tap import mint_id

ROUNDS = 9  # of a conversation
PARTS = 10  # of a drain, for memory and speed
LATE_S = 1800.0
REPEATED, FRESH, MEANWHILE = "four fifths seen before", "all new", "linked meanwhile"
WORDS = str.split(
    "the of and to in is that for it as was with be by on not he his but at are this have from "
    "or had an they which one you were her all she there would their we him been has when who "
    "will more no if out so said what up its about into than them can only other new some could "
    "time these two may then do first any my now such like our over man me even most made after "
    "also did many before must through back years where much your way well down should because "
    "each just function return value error file line test result table index server request "
    "response token"
)
_HEADERS = (
    ("accept", "application/json"),
    ("content-type", "application/json"),
    ("user-agent", "OpenAI/Python 1.99.0"),
    ("x-stainless-lang", "python"),
)
_ANSWER_HEADERS = (("content-type", "application/json"), ("x-request-id", "req-bench"))


def text(chosen: random.Random, size: int) -> str:
    return " ".join(chosen.choices(WORDS, k=size // 5))[:size]


def calls(count: int, *, is_fresh: bool) -> Iterator[tuple[str, bytes, bytes]]:
    """Session, request and answer of each call; several conversations go on at the same time."""
    chosen = random.Random(7)
    tool = {"type": "object", "properties": {"path": {"type": "string", "description": "where"}}}
    tools = [
        {"type": "function", "function": {"name": f"tool_{n}", "parameters": tool}}
        for n in range(6)
    ]
    system = {"role": "system", "content": text(chosen, 600)}
    made = 0
    while made < count:
        group = [[system] for _ in range(1 if is_fresh else 8)]
        sessions = [f"s-{made}-{n}" for n in range(len(group))]
        for _ in range(1 if is_fresh else ROUNDS):
            for session, history in zip(sessions, group, strict=True):
                history.append(
                    {"role": "user", "content": text(chosen, 8500 if is_fresh else 1050)}
                )
                answer = {"role": "assistant", "content": text(chosen, 700)}
                yield session, *_call(chosen, history, answer, tools)
                history.append(answer)
                made += 1
                if made == count:
                    return


def _call(
    chosen: random.Random, history: list[dict[str, str]], answer: object, tools: object
) -> tuple[bytes, bytes]:
    reply = {
        "id": f"chatcmpl-{chosen.getrandbits(64):x}",
        "object": "chat.completion",
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": answer, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2500, "completion_tokens": 150, "total_tokens": 2650},
    }
    request = {"model": "gpt-4o-mini", "messages": history, "tools": tools}
    return orjson.dumps(request), orjson.dumps(reply)


def fill(spool: Path, count: int, *, is_fresh: bool) -> int:
    """Write the calls as a gateway does; the bytes of all bodies."""
    salt = os.urandom(32)
    digest = blake2b(b"sk-" + bytes(48), digest_size=16, key=salt).hexdigest()
    secrets = (Secret(51, digest),)
    writer = SpoolWriter(spool, max_bytes=1 << 40)
    size = 0
    for session, request, answer in calls(count, is_fresh=is_fresh):
        at_ns = time.time_ns()
        id = mint_id(at_ns)
        labels = Labels(project="bench", session=session, session_source="label")
        where = ("openai", "openai", "chat.completions", "POST", "/v1/chat/completions")
        start = Start(id, at_ns, *where, _HEADERS, labels, "full", salt.hex(), secrets)
        writer.begin(id, start.to_bytes(), 5, request)
        sizes = {"request_bytes": len(request), "response_bytes": len(answer)}
        kept = {"request_kept": len(request), "response_kept": len(answer)}
        end = End(900_000, Outcome.COMPLETE, None, **sizes, **kept)
        writer.finish(id, AnswerHead(800_000, 200, _ANSWER_HEADERS), 890_000, answer, end)
        size += len(request) + len(answer)
    writer.close()
    return size


@dataclass(slots=True)
class Drained:
    """What working it off took. Seconds; memory in bytes, speed in calls/s, by part."""

    kind: str
    calls: int
    bytes_per_call: int
    recorder_s: float
    postgres_s: float
    linking_s: float
    linking_postgres_s: float
    took_s: float
    database_bytes: int
    memory: list[int] = field(default_factory=list)
    part_cpu_s: list[float] = field(default_factory=list)

    @property
    def per_core(self) -> float:
        """Calls that one core of the recorder's works off in a second."""
        return self.calls / self.recorder_s


def drained(directory: Path, count: int, kind: str) -> Drained:
    """Fill a spool, start a recorder on it, and watch it until everything is stored and linked."""
    spool = directory / "spool"
    size = fill(spool, count, is_fresh=kind == FRESH)
    server = EmbeddedServer(directory)
    dsn = server.start()
    own = {"DATA_DIR": str(directory), "STORE__DSN": dsn, "LOG__LEVEL": "warning"}
    environment = os.environ | {f"AGENT_TELEMETRY__{k}": v for k, v in own.items()}
    command = [sys.executable, "-m", "proxy", "recorder"]
    postgres = lambda: list(tree(server.pid or 0))  # noqa: E731
    before = cpu_s(postgres())
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        found = Drained(kind, count, size // count, 0, 0, 0, 0, 0, 0)
        with contextlib.nullcontext() if kind == MEANWHILE else without_linking(dsn):
            _watch(found, spool, process.pid)
            found.postgres_s = cpu_s(postgres()) - before
        uvloop.run(_until_linked(dsn, found))
        found.linking_s = cpu_s([process.pid]) - found.recorder_s
        found.linking_postgres_s = cpu_s(postgres()) - before - found.postgres_s
    finally:
        process.terminate()
        process.wait(30)
        server.stop()
    return found


@contextlib.contextmanager
def without_linking(dsn: str) -> Iterator[None]:
    """Hold the lock that linkers compete for."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(dsn))
        runner.run(connection.execute("SELECT pg_advisory_lock($1)", LOCK))
        try:
            yield
        finally:
            runner.run(connection.close())


def _watch(found: Drained, spool: Path, pid: int) -> None:
    """Take a sample whenever another part is stored. The first row begins the first part."""
    deadline = time.monotonic() + LATE_S
    began, began_cpu_s, part, part_cpu_s = 0.0, 0.0, 1, 0.0
    while part <= PARTS:
        stored = summed(read_totals(spool)).stored
        if not began and stored:
            began, began_cpu_s = time.monotonic(), cpu_s([pid])
            part_cpu_s, first = began_cpu_s, stored
        while part <= PARTS and stored * PARTS >= found.calls * part:
            now_cpu_s = cpu_s([pid])
            found.part_cpu_s.append(now_cpu_s - part_cpu_s)
            found.memory.append(pss_bytes([pid]))
            part, part_cpu_s = part + 1, now_cpu_s
        if time.monotonic() > deadline:
            raise TimeoutError("the recorder does not keep up")
        time.sleep(0.02)
    found.took_s = time.monotonic() - began
    share = found.calls / max(1, found.calls - first)  # importing and connecting came before
    found.recorder_s = (cpu_s([pid]) - began_cpu_s) * share


async def _until_linked(dsn: str, found: Drained) -> None:
    connection = await asyncpg.connect(dsn)
    while await connection.fetchval("SELECT EXISTS (SELECT FROM agent_links WHERE is_pending)"):
        await connection.fetchval("SELECT pg_sleep(0.1)")
    query = (
        "SELECT pg_total_relation_size('agent_telemetry') + pg_total_relation_size('agent_links')"
    )
    found.database_bytes = await connection.fetchval(query)
    await connection.close()


def line(found: Drained) -> str:
    half = found.memory[PARTS // 2 :]
    last = median(found.part_cpu_s[1:]) / found.part_cpu_s[-1] if found.part_cpu_s[-1] else 0
    return (
        f"| {found.calls:,} {found.kind} | {found.bytes_per_call / 1000:.1f} "
        f"| {found.recorder_s / found.calls * 1000:.3f} | {found.per_core:,.0f} "
        f"| {found.postgres_s / found.calls * 1000:.3f} "
        f"| {found.linking_s / found.calls * 1000:.3f} "
        f"+ {found.linking_postgres_s / found.calls * 1000:.3f} "
        f"| {found.calls / found.took_s:,.0f} | {last:.2f} "
        f"| {max(half) / 1e6:.0f} ({max(half) / min(half) - 1:+.0%}) "
        f"| {found.database_bytes / found.calls / 1000:.1f} |"
    )


HEAD = (
    "| calls | KB each | recorder, CPU s per 1,000 | calls per s and core | PostgreSQL, CPU s per "
    "1,000 | linking afterwards (recorder + PostgreSQL) | calls/s here | last tenth ÷ median speed "
    "| memory, MB (over the second half) | KB per row on disk |\n"
    "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


_SECTIONS = {REPEATED: "backlog", FRESH: "backlog-fresh", MEANWHILE: "backlog-large"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--fresh", dest="kind", action="store_const", const=FRESH)
    kinds.add_argument("--meanwhile", dest="kind", action="store_const", const=MEANWHILE)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    kind = options.kind or REPEATED
    with tempfile.TemporaryDirectory() as where, contextlib.suppress(KeyboardInterrupt):
        found = drained(Path(where), options.calls, kind)
        print(f"{HEAD}\n{line(found)}")
        print(found)
        if options.write:
            report.replace_section(
                _SECTIONS[kind], f"{report.conditions({})}\n\n{HEAD}\n{line(found)}"
            )


if __name__ == "__main__":
    main()
