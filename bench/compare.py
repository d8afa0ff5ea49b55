"""Compare this program with the limit, with a frozen reference and with its peers, in one run.

    python -m bench.compare [--rounds N] [--seconds S] [--scenario NAME]... [--write]

In each round every target runs the scenario once, in a new order, so that whatever the machine does
meanwhile hits all alike; what counts are ratios inside a round, and their medians over all rounds.
`--write` puts the tables into docs/performance.md, the figures into bench/results.json and the
ratios to the frozen reference into bench/trend.csv. Targets that are not installed are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import uvloop

from bench import load, report
from bench.processes import cpu_s, pss_bytes
from bench.targets import Target, free_port, started

ROUNDS, SECONDS = 5, 2.0
CONNECTIONS = 64
WARM_UP_S = 0.5


def body_of(size: int, *, stream: tuple[int, int] | None = None) -> bytes:
    """A chat request of about so many bytes; `stream`: how many events, how many a second."""
    rate = b',"stream":true,"max_tokens":%d,"seed":%d' % stream if stream else b""
    start = b'{"model":"bench"%b,"messages":[{"role":"user","content":"' % rate
    text = b"All happy families are alike; each unhappy family is unhappy in its own way. "
    room = size - len(start) - 4
    return start + (text * (room // len(text) + 1))[:room] + b'"}]}'


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is asked of each target. `rate` 0: saturated; `streams`: how many at the same time."""

    name: str
    title: str
    targets: tuple[str, ...]
    size: int = 2_000
    rate: float = 0
    streams: int = 0
    events_per_s: int = 0
    is_tls: bool = False


_OWN = ("nginx", "ours", "ours-off", "naive")
_PEERS = ("litellm", "portkey")
SCENARIOS = (
    Scenario("fixed", "2 KB requests, 500 per second", _OWN, rate=500),
    Scenario("small", "2 KB requests, saturated", (*_OWN, *_PEERS)),
    Scenario("large", "200 KB requests, saturated", _OWN, size=200_000),
    Scenario("streams", "64 streams of 50 events/s", (*_OWN, *_PEERS), streams=64, events_per_s=50),
    Scenario(
        "many",
        "512 streams of 10 events/s",
        ("direct", "nginx", "ours", "ours-off"),
        streams=512,
        events_per_s=10,
    ),
    Scenario(
        "tls",
        "2 KB requests, 500 per second, TLS to the provider",
        ("nginx", "ours", "ours-off", "naive-tls"),
        rate=500,
        is_tls=True,
    ),
)


@dataclass(slots=True)
class Measured:
    """One target in one round. CPU in seconds of its processes; `units` are calls or events."""

    target: str
    round: int
    calls: int
    failed: int
    events: int
    units: int
    took_s: float
    cpu_s: float
    recorder_s: float
    postgres_s: float
    rows: int
    first_byte_ms: float
    delay_ms: float
    gap_ms: float
    memory_bytes: int
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def per_unit_us(self) -> float:
        return self.cpu_s / max(1, self.units) * 1e6


async def ask(target: Target, scenario: Scenario, seconds: float, halfway: object) -> load.Seen:
    """Run the scenario once against one target."""
    if scenario.streams:
        count = max(1, int(scenario.events_per_s * seconds))
        body = body_of(scenario.size, stream=(count, scenario.events_per_s))
        request = target.request(body, is_tls=scenario.is_tls)
        return await load.streams(
            target.port,
            request,
            count=scenario.streams,
            halfway=halfway,  # type: ignore[arg-type]
            seconds=seconds,
        )
    request = target.request(body_of(scenario.size), is_tls=scenario.is_tls)
    if scenario.rate:
        return await load.paced(
            target.port, request, rate=scenario.rate, connections=CONNECTIONS, seconds=seconds
        )
    return await load.saturated(target.port, request, connections=CONNECTIONS, seconds=seconds)


def measured(target: Target, scenario: Scenario, seconds: float, number: int) -> Measured:
    """One target's turn, from an empty spool to an empty spool."""
    pids = target.pids()
    before = {role: cpu_s(found) for role, found in pids.items()}
    stored = target.stored()
    memory: list[int] = []
    seen = uvloop.run(
        ask(target, scenario, seconds, lambda: memory.append(pss_bytes(pids["serving"])))
    )
    serving_s = cpu_s(pids["serving"]) - before["serving"]
    target.drained()
    beside = {role: cpu_s(pids[role]) - before[role] for role in ("recorder", "postgres")}
    return Measured(
        target.name,
        number,
        seen.calls,
        seen.failed,
        seen.events,
        seen.events if scenario.streams else seen.calls,
        seen.took_s,
        serving_s,
        beside["recorder"],
        beside["postgres"],
        target.stored() - stored,
        _median_ms(seen.first_byte_s),
        _median_ms(seen.delay_s),
        _median_ms(seen.gap_s),
        memory[0] if memory else pss_bytes(pids["serving"]),
    )


def _median_ms(seconds: list[float]) -> float:
    return median(seconds) * 1e3 if seconds else 0.0


@contextlib.contextmanager
def providers(directory: Path) -> Iterator[tuple[int, int]]:
    """The ports of a plain and of an encrypted provider."""
    import trustme

    certificate, key = directory / "certificate.pem", directory / "key.pem"
    made = trustme.CA().issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(certificate)
    made.private_key_pem.write_to_path(key)
    ports = free_port(), free_port()
    words = [sys.executable, "-m", "bench.provider"]
    processes = [
        subprocess.Popen([*words, str(ports[0])]),
        subprocess.Popen([*words, str(ports[1]), str(certificate), str(key)]),
    ]
    try:
        yield ports
    finally:
        for process in processes:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def all_started(names: list[str], directory: Path) -> Iterator[dict[str, Target]]:
    with providers(directory) as ports, contextlib.ExitStack() as stack:
        found: dict[str, Target] = {}
        for name in names:
            target = started(name, directory / name, *ports)
            if target is None:
                print(f"{name} is not installed and is left out; see bench/peers.py")
                continue
            stack.callback(target.stop)
            found[name] = target
        yield found


def run(
    scenarios: list[Scenario], rounds: int, seconds: float
) -> Iterator[tuple[str, dict[str, object]]]:
    """All rounds of one scenario after the other, as `report` reads them."""
    names = list(dict.fromkeys(name for scenario in scenarios for name in scenario.targets))
    with tempfile.TemporaryDirectory() as where, all_started(names, Path(where)) as targets:
        versions = {name: target.version for name, target in targets.items() if target.version}
        idle = {name: pss_bytes(t.pids()["serving"]) for name, t in targets.items()}
        for scenario in scenarios:
            here = [targets[name] for name in scenario.targets if name in targets]
            for target in here:
                measured(target, scenario, WARM_UP_S, -1)
            found: list[Measured] = []
            for number in range(rounds):
                for target in random.sample(here, len(here)):
                    one = measured(target, scenario, seconds, number)
                    print(report.line(scenario.name, one), flush=True)
                    if one.units:  # a peer that fails at this is left out of its tables
                        found.append(one)
            yield (
                scenario.name,
                {
                    "title": scenario.title,
                    "at": time.strftime("%Y-%m-%d"),
                    "versions": {n: v for n, v in versions.items() if n in scenario.targets},
                    "idle_bytes": idle,
                    "measured": [asdict(each) for each in found],
                },
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--scenario", action="append", choices=[s.name for s in SCENARIOS])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    wanted = [s for s in SCENARIOS if not options.scenario or s.name in options.scenario]
    results = {}
    for name, result in run(wanted, options.rounds, options.seconds):
        results[name] = result
        if options.write:  # at once, so that a run that is stopped leaves what it has
            report.write({name: result})
    print(report.tables(results))


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        main()
