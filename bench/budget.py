"""Where the time of a call goes: each step alone, in one process, on the thread's own clock.

    python -m bench.budget [--write]

A step is repeated on the calls of `bench.backlog`; given is the lower quartile, in microseconds.
Inside the running program everything costs more, since caches are shared with what goes on between.
How much more shows what is appended to the spool: it is measured as well after pauses in which
something else fills the caches, as between the events of streams that are paced.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench import report
from bench.backlog import fill
from bench.compare import body_of
from proxy import assemble
from proxy.config import Config
from proxy.enrich.digests import Digests
from proxy.enrich.redact import Scan
from proxy.environment import load
from proxy.exchange import Outcome
from proxy.spool.reader import SpoolReader
from proxy.spool.segment import HEADER_BYTES
from proxy.spool.stall import StallGuard
from proxy.spool.writer import SpoolWriter
from proxy.store.storable import storable
from proxy.wire import fields, headers
from proxy.wire.admission import Admission
from proxy.wire.answer import AnswerReader, HeadLimits
from proxy.wire.plans import Plans
from proxy.wire.request import RequestReader
from proxy.wire.tap import Tap, mint_id

REPEATS, SLICES, CALLS = 500, 25, 1500
COLD_REPEATS, COLD_BYTES, PAUSE_S = 1000, 4 * 1024 * 1024, 0.0002
LIMITS = HeadLimits(65536, 65536, 512)
RAW = (
    (b"Host", b"127.0.0.1:8080"),
    (b"Content-Type", b"application/json"),
    (b"Accept", b"application/json"),
    (b"User-Agent", b"OpenAI/Python 1.99.0"),
    (b"x-stainless-lang", b"python"),
    (b"Authorization", b"Bearer sk-bench-0123456789abcdef"),
    (b"Content-Length", b"2000"),
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: r\r\n"
    b"Content-Length: 1000\r\n\r\n" + b"x" * 1000
)
TARGET, GIVEN, BODY = b"/openai/v1/chat/completions", fields.from_raw(RAW), body_of(2000)
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"and so on"}}]}\n\n' * 3


def quartile_us(step: Callable[[], Any]) -> float:
    taken = []
    for _ in range(SLICES):
        began = time.thread_time_ns()
        for _ in range(REPEATS):
            step()
        taken.append((time.thread_time_ns() - began) / REPEATS / 1000)
    return quantiles(taken, n=4)[0]


def cold_us(step: Callable[[], Any]) -> float:
    """The median after a pause in which the caches were used for something else."""

    def measured(step: Callable[[], Any]) -> float:
        taken = []
        for _ in range(COLD_REPEATS):
            rubbish[:] = other
            time.sleep(PAUSE_S)
            began = time.thread_time_ns()
            step()
            taken.append((time.thread_time_ns() - began) / 1000)
        return median(taken)

    rubbish, other = bytearray(COLD_BYTES), bytes(COLD_BYTES)
    return measured(step) - measured(lambda: None)


def gateway(config: Config) -> Iterator[tuple[str, float]]:
    """The steps of a plain call of 2 KB, as the relay takes them."""
    plans = Plans(Admission(config), bytes(32))

    def planned() -> None:
        plan, length = plans.of("POST", TARGET, GIVEN, is_http_1_0=False)
        plan.to_upstream(length)  # type: ignore[union-attr]  # of an admitted head, so a Plan

    def anew() -> None:
        Plans(Admission(config), bytes(32)).of("POST", TARGET, GIVEN, is_http_1_0=False)

    def nothing() -> None:
        Plans(Admission(config), bytes(32))

    def asked() -> None:
        agent.feed(request)
        agent.requests.popleft().body.read_nowait()

    agent = RequestReader(LIMITS, lambda: None)
    head = read_answer().heads[0]
    lines = b"".join(b"%b: %b\r\n" % field for field in RAW)
    request = b"POST %b HTTP/1.1\r\n%b\r\n%b" % (TARGET, lines, BODY)
    assert len(BODY) == int(RAW[-1][1])
    yield "gateway: read a request of 2 KB", quartile_us(asked)
    yield "gateway: decide about a head and write the upstream's, seen before", quartile_us(planned)
    yield "the same, never seen", quartile_us(anew) - quartile_us(nothing)
    yield "gateway: read an answer of 1 KB", quartile_us(read_answer)
    yield (
        "gateway: head for the agent",
        quartile_us(lambda: headers.to_agent(head.fields, "x" * 36)),
    )


def read_answer() -> AnswerReader:
    reader = AnswerReader(LIMITS, is_head_only=False)
    reader.feed(ANSWER)
    reader.release()
    return reader


def appended(config: Config, sink: StallGuard) -> Iterator[tuple[str, float]]:
    """What such a call, and an event of a stream, append to the spool."""
    plans, head = Plans(Admission(config), bytes(32)), read_answer().heads[0]
    tapped: list[Tap] = []

    def begun() -> None:
        plan, length = plans.of("POST", TARGET, GIVEN, is_http_1_0=False)
        at_ns, id = time.time_ns(), mint_id(time.time_ns())
        tap = Tap.open(
            sink,
            id,
            lambda: plan.start(str(id), at_ns, length),  # type: ignore[union-attr]  # as above
            time.monotonic_ns(),
            1 << 26,
            lambda: None,
            body=BODY,
            announced=length,
        )
        assert tap is not None
        tap.request_complete()
        tapped.append(tap)

    def ended() -> None:
        tap = tapped.pop()
        tap.head(200, lambda: headers.kept_of_answer(head.fields, ()), announced=b"1000")
        tap.response(ANSWER[-1000:], is_last=True)
        tap.end(Outcome.COMPLETE)

    def came() -> None:
        tapped[0].response(EVENT)

    yield "spool: start and request of 2 KB, one write", quartile_us(begun)
    yield "spool: head, answer of 1 KB and end, one write", quartile_us(ended)
    yield "the first of the two, with cold caches", cold_us(begun)
    yield "the second, with cold caches", cold_us(ended)
    begun()
    yield "spool: one event of a stream", quartile_us(came)
    yield "the same, with cold caches", cold_us(came)
    with tempfile.TemporaryFile(buffering=0) as file:
        data = EVENT + bytes(HEADER_BYTES)
        yield "a bare write of as many bytes", quartile_us(lambda: file.write(data))
        yield "the same, with cold caches", cold_us(lambda: file.write(data))


def recorder(config: Config, spool: Path) -> Iterator[tuple[str, float]]:
    """The steps of a call of 10 KB of which 80 % came before."""
    taken: dict[str, list[float]] = defaultdict(list)

    def watch(owner: Any, name: str, step: str) -> None:
        real = getattr(owner, name)

        def timed(*values: Any, **named: Any) -> Any:
            began = time.thread_time_ns()
            found = real(*values, **named)
            taken[step].append((time.thread_time_ns() - began) / 1000)
            return found

        setattr(owner, name, timed)

    watch(assemble, "decode", "recorder: decode")
    watch(assemble, "link_of", "recorder: facts for linking")
    watch(assemble, "extract", "recorder: look for media")
    watch(Scan, "record", "recorder: redact")
    watch(assemble.Assembler, "assembled", "recorder: assemble the row, all of the above included")
    reader, assembler = SpoolReader(spool), assemble.Assembler(config, Digests(bytes(32)))
    while batch := reader.read(100, 1 << 25):
        began = time.thread_time_ns()
        rows = [assembler.assembled(each.exchange) for each in batch]
        began = time.thread_time_ns()
        for row in rows:
            storable(row.record)
        taken["recorder: values for PostgreSQL"].append(
            (time.thread_time_ns() - began) / len(batch) / 1000
        )
        began = time.thread_time_ns()
        reader.acknowledge(batch)
        taken["recorder: acknowledge"].append((time.thread_time_ns() - began) / len(batch) / 1000)
    reader.close()
    for step, values in taken.items():
        yield step, quantiles(values[len(values) // 4 :], n=4)[0]


def measured() -> Iterator[str]:
    yield "| step | µs |"
    yield "|---|---:|"
    with tempfile.TemporaryDirectory() as where:
        config = load(None, {"AGENT_TELEMETRY__DATA_DIR": where})
        sink = StallGuard(SpoolWriter(Path(where) / "one", max_bytes=1 << 40))
        for step, cost in chain(gateway(config), appended(config, sink)):
            yield f"| {step} | {cost:.1f} |"
        sink.close()
        fill(Path(where) / "two", CALLS, is_fresh=False)
        for step, cost in recorder(config, Path(where) / "two"):
            yield f"| {step} | {cost:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = []
    for line in measured():
        print(line, flush=True)
        lines.append(line)
    if options.write:
        report.replace_section("budget", "\n".join((report.conditions({}), "", *lines)))


if __name__ == "__main__":
    main()
