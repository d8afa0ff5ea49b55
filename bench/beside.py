"""What goes on beside a call: how soon its row is there, what many streams and a backlog cost.

    python -m bench.beside [--write] [--rows N]

One gateway with everything behind it, as its user runs it. Medians; what is compared is measured
in turns. `--rows` puts so many rows into the table first, to see whether they cost anything.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from uuid import UUID

import asyncpg
import orjson
import uvloop

from bench import load, report
from bench.compare import body_of, providers
from bench.processes import cpu_s, pss_bytes
from bench.targets import Target, free_port, ours, until_listening
from proxy.exchange import AnswerHead, End, Outcome, Start
from proxy.spool.totals import read_totals, summed
from proxy.spool.writer import SpoolWriter
from proxy.store.channel import CHANNEL
from proxy.store.embedded import dsn
from proxy.wire.tap import mint_id

EVENTS_PER_S = 1000  # in all, however many streams share them
SECONDS = 4.0
TURNS = 5


class Tagged(load.Connection):
    """A connection that notes when each call's last byte came, by the id of its row."""

    ended: dict[UUID, float]

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"x-agent-telemetry-id":
            self._id = UUID(value.decode())

    def on_message_complete(self) -> None:
        self.ended[self._id] = time.perf_counter()
        super().on_message_complete()


@contextmanager
def running(directory: Path, **settings: str) -> Iterator[Target]:
    directory.mkdir(parents=True)
    with providers(directory) as ports:
        target = ours("ours", directory, free_port(), *ports, **settings)
        try:
            until_listening(target, directory)
            uvloop.run(load.saturated(target.port, asking(target), connections=1, seconds=1))
            target.drained()
            yield target
        finally:
            target.stop()


def asking(target: Target, stream: tuple[int, int] | None = None, size: int = 2000) -> bytes:
    return target.request(body_of(size, stream=stream), is_tls=False)


async def visible_s(target: Target, address: str, rate: float, seconds: float) -> list[float]:
    """From the last byte at the agent to the notification of the committed row."""
    loop = asyncio.get_running_loop()
    ended: dict[UUID, float] = {}
    seen: dict[UUID, float] = {}

    def heard(connection: object, pid: int, channel: str, payload: object) -> None:
        now = time.perf_counter()
        seen.update(dict.fromkeys((UUID(hex=each) for each in str(payload).split(",")), now))

    database = await asyncpg.connect(address)
    await database.add_listener(CHANNEL, heard)
    idle: list[load.Connection] = []
    for _ in range(16):
        _, made = await loop.create_connection(
            lambda: Tagged(load.Seen(), idle.append, sampled=False), "127.0.0.1", target.port
        )
        made.ended = ended
        idle.append(made)
    request, began = asking(target), time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        while not idle:
            await asyncio.sleep(0.001)
        idle.pop().ask(request)
    deadline = time.perf_counter() + 30
    while len(ended) < int(rate * seconds) or not ended.keys() <= seen.keys():
        if time.perf_counter() > deadline:
            raise TimeoutError("rows are missing")
        await asyncio.sleep(0.05)
    for made in idle:
        made.close()
    await database.close()
    return [seen[id] - at for id, at in ended.items()]


def write_backlog(spool: Path, calls: int, size: int) -> None:
    """Calls of another gateway on the same spool, so that only the recorder feels them."""
    body = orjson.loads(body_of(size))
    text = body["messages"][0]["content"]
    piece = len(text) // 20
    writer = SpoolWriter(spool, max_bytes=1 << 40)
    answer = (
        b'{"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"x"}}]}'
    )
    for number in range(calls):
        parts = [f"{number} {n} {text[:piece]}" for n in range(20)]
        body["messages"] = [{"role": "user", "content": part} for part in parts]
        request, at_ns = orjson.dumps(body), time.time_ns()
        id = mint_id(at_ns)
        where = ("openai", "openai", "chat.completions", "POST", "/v1/chat/completions")
        writer.begin(id, Start(id, at_ns, *where).to_bytes(), 5, request)
        sizes = {"request_bytes": len(request), "response_bytes": len(answer)}
        kept = {"request_kept": len(request), "response_kept": len(answer)}
        end = End(9, Outcome.COMPLETE, None, **sizes, **kept)
        writer.finish(id, AnswerHead(7, 200), 8, answer, end)
    writer.close()


def interplay(target: Target) -> dict[str, list[float]]:
    """First byte at 50 calls/s, delay of events and gap (ms), recorder idle and busy in turns."""
    found: dict[str, list[float]] = {}
    assert target.spool is not None
    for _ in range(TURNS):
        for state, (calls, size) in {
            "idle": (0, 0),
            "200 KB": (400, 200_000),
            "2 MB": (40, 2_000_000),
        }.items():
            target.drained()
            if calls:
                write_backlog(target.spool, calls, size)
            seen = uvloop.run(
                load.paced(target.port, asking(target), rate=50, connections=8, seconds=1.5)
            )
            found.setdefault(f"{state} first byte", []).append(median(seen.first_byte_s) * 1e3)
            request = asking(target, (30, 20))
            seen = uvloop.run(
                load.streams(target.port, request, count=16, halfway=lambda: None, seconds=1.5)
            )
            found.setdefault(f"{state} event delay", []).append(median(seen.delay_s) * 1e3)
            found.setdefault(f"{state} gap", []).append(median(seen.gap_s) * 1e3)
            waiting = summed(read_totals(target.spool)).waiting
            found.setdefault(f"{state} still waiting", []).append(waiting)
    target.drained()
    return found


def streams(target: Target, count: int) -> tuple[float, int]:
    """CPU per event (µs), and memory with all of them open, of so many streams at once."""
    rate = max(1, EVENTS_PER_S // count)
    events = max(2, int(rate * SECONDS))
    pids = target.pids()["serving"]
    memory: list[int] = []
    before = cpu_s(pids)
    seen = uvloop.run(
        load.streams(
            target.port,
            asking(target, (events, rate)),
            count=count,
            halfway=lambda: memory.append(pss_bytes(pids)),
            seconds=SECONDS,
        )
    )
    if seen.failed:
        raise RuntimeError(f"{seen.failed} streams failed")
    return (cpu_s(pids) - before) / seen.events * 1e6, memory[0]


async def fill_table(address: str, rows: int) -> None:
    database = await asyncpg.connect(address)
    await database.execute(
        "INSERT INTO agent_telemetry (created_at, project_id, session_id, model_used, "
        "system_prompt, chat_history, response_text, duration_ms) SELECT now() - "
        "make_interval(secs => n), 'p', 's' || n % 1000, 'm', '', '[]', repeat('x', 200), 1 "
        "FROM generate_series(1, $1) AS n",
        rows,
        timeout=600,
    )
    await database.execute("ANALYZE agent_telemetry")
    await database.close()


def recorded_us(target: Target) -> tuple[float, float, float]:
    """CPU per call of gateway, recorder and PostgreSQL at 200 calls/s."""
    pids = target.pids()
    before, stored = {role: cpu_s(found) for role, found in pids.items()}, target.stored()
    uvloop.run(load.paced(target.port, asking(target), rate=200, connections=16, seconds=SECONDS))
    target.drained()
    calls = target.stored() - stored
    serving, recorder, postgres = (
        (cpu_s(pids[role]) - before[role]) / calls * 1e6
        for role in ("serving", "recorder", "postgres")
    )
    return serving, recorder, postgres


def measured(directory: Path, rows: int) -> Iterator[str]:
    """The lines of the table."""
    yield "| what | median | |"
    yield "|---|---:|---|"
    with running(directory / "one") as target:
        address = dsn(directory / "one" / "data")
        soon = uvloop.run(visible_s(target, address, 100, 5))
        p99 = quantiles(soon, n=100)[98] * 1e3
        middle = median(soon) * 1e3
        yield f"| last byte to visible row at 100 calls/s, ms | {middle:.0f} | p99 {p99:.0f} |"
        idle = pss_bytes(target.pids()["serving"])
        for count in (1, 10, 100, 1000):
            cost, memory = streams(target, count)
            each = f"; {(memory - idle) / count / 1024:.0f} KiB each" if count >= 100 else ""
            yield (
                f"| {count} streams that share {EVENTS_PER_S} events/s: CPU per event, µs "
                f"| {cost:.0f} | {memory / 1e6:.0f} MB of memory in all{each} |"
            )
        target.drained()
        found = interplay(target)
        for state in ("200 KB", "2 MB"):
            for what in ("first byte", "event delay", "gap"):
                pairs = zip(found[f"{state} {what}"], found[f"idle {what}"], strict=True)
                ratio = [busy / quiet for busy, quiet in pairs]
                yield (
                    f"| {what}, recorder works on a backlog of {state} bodies, ms "
                    f"| {median(found[f'{state} {what}']):.2f} "
                    f"| {median(found[f'idle {what}']):.2f} idle; ratio {report.spread(ratio)} |"
                )
        few = recorded_us(target)
        if rows:
            uvloop.run(fill_table(address, rows))
            many = recorded_us(target)
            names = ("gateway", "recorder", "PostgreSQL")
            listed = zip(names, many, few, strict=True)
            parts = ", ".join(f"{name} {a:.0f} ({b:.0f})" for name, a, b in listed)
            what = f"CPU per call with {rows:,} rows in the table (few), µs"
            yield f"| {what} | {sum(many):.0f} | {parts} |"
    with running(directory / "two", GATEWAY__WORKERS="2") as target:
        pids = target.pids()["serving"]
        before = {pid: cpu_s([pid]) for pid in pids}
        seen = uvloop.run(load.saturated(target.port, asking(target), connections=64, seconds=3))
        shares = sorted(cpu_s([pid]) - before[pid] for pid in pids)[-2:]
        rate, each = seen.calls / seen.took_s, sum(shares) / seen.calls * 1e6
        share = shares[0] / sum(shares)
        yield (
            f"| two workers on one port: share of the less busy one | {share:.0%} "
            f"| {rate:.0f} calls/s, {each:.0f} µs of CPU each |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as where:
        for line in measured(Path(where), options.rows):
            print(line, flush=True)
            lines.append(line)
    if options.write:
        report.replace_section("beside", "\n".join((report.conditions({}), "", *lines)))


if __name__ == "__main__":
    main()
