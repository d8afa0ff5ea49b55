"""Report: figures of a run as lines, as Markdown, and as files that are kept.

A ratio is taken inside each round and given as its median with the smallest and the largest. The
bars are those that this program has set itself: what a proxy in Python can reach was measured with
prototypes, and `must` is what no release may fall behind.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "bench" / "results.json"
TREND = ROOT / "bench" / "trend.csv"
_ORDER = ("direct", "nginx", "ours", "ours-off", "naive", "naive-tls", "litellm", "portkey")
_BEGIN, _END = "<!-- {}: written by the program -->", "<!-- end of {} -->"

Rounds = dict[int, dict[str, Any]]


def line(scenario: str, m: Any) -> str:
    """One turn of one target."""
    rows = f" rows {m.rows}" if m.rows else ""
    beside = f" recorder {_per(m.recorder_s, m.rows)} pg {_per(m.postgres_s, m.rows)}" * bool(rows)
    return (
        f"{scenario:8} {m.round} {m.target:9} {m.units:6} in {m.took_s:5.2f} s  "
        f"{m.per_unit_us:8.1f} us  first {m.first_byte_ms:6.2f} ms  delay {m.delay_ms:5.2f}  "
        f"gap {m.gap_ms:6.2f}  {m.memory_bytes / 1e6:5.0f} MB{rows}{beside}"
        + (f"  FAILED {m.failed}" if m.failed else "")
    )


def _per(seconds: float, rows: int) -> str:
    return f"{seconds / rows * 1e6:.0f} us" if rows else "-"


def _by_round(scenario: dict[str, Any]) -> Rounds:
    rounds: Rounds = {}
    for each in scenario["measured"]:
        rounds.setdefault(each["round"], {})[each["target"]] = each
    return rounds


def _cpu(each: dict[str, Any]) -> float:
    return float(each["cpu_s"]) / max(1, each["units"])


def ratios(
    scenario: dict[str, Any], one: str, other: str, of: Callable[[dict[str, Any]], float] = _cpu
) -> list[float]:
    """`one` ÷ `other` in each round that has both."""
    return [
        of(found[one]) / of(found[other])
        for found in _by_round(scenario).values()
        if one in found and other in found and of(found[other])
    ]


def spread(values: list[float], digits: int = 2) -> str:
    if not values:
        return "–"
    return f"{median(values):.{digits}f} [{min(values):.{digits}f}–{max(values):.{digits}f}]"


_Bar = tuple[str, str, list[float], float, float, bool]


def bars(results: dict[str, Any]) -> Iterator[_Bar]:
    """Name, what it is, ratios by round, must, good, and whether less is better."""
    get = results.get
    if s := get("fixed"):
        yield (
            "R1",
            "CPU per request ÷ nginx, 2 KB at 500/s",
            ratios(s, "ours", "nginx"),
            5,
            2.5,
            True,
        )
    if s := get("large"):
        yield "R2", "CPU per request ÷ nginx, 200 KB", ratios(s, "ours", "nginx"), 12, 6, True
    if s := get("streams"):
        yield "R3", "CPU per event ÷ nginx, 64 streams", ratios(s, "ours", "nginx"), 2.5, 1.4, True
    for bar, peer, small, stream in (
        ("R4", "litellm", (30, 60), (8, 12)),
        ("R5", "portkey", (5, 12), (1.5, 2.5)),
    ):
        if s := get("small"):
            yield bar, f"{peer} ÷ ours, per request", ratios(s, peer, "ours"), *small, False
        if s := get("streams"):
            yield bar, f"{peer} ÷ ours, per event", ratios(s, peer, "ours"), *stream, False
    if s := get("many"):
        delivered = ratios(s, "ours", "direct", lambda each: each["events"] / each["took_s"])
        yield "R6", "512 streams: events/s delivered ÷ direct", delivered, 0.98, 1.0, False
        idle = (get("small") or get("streams") or s)["idle_bytes"].get("litellm")
        if idle:
            memory = [e["ours"]["memory_bytes"] / idle for e in _by_round(s).values()]
            yield "R7", "memory at 512 streams ÷ LiteLLM idle", memory, 0.4, 0.2, True
    if s := get("fixed"):
        yield (
            "R8",
            "recording on ÷ off, 2 KB at 500/s",
            ratios(s, "ours", "ours-off"),
            1.3,
            1.15,
            True,
        )
    if s := get("large"):
        yield "R8", "recording on ÷ off, 200 KB", ratios(s, "ours", "ours-off"), 1.6, 1.3, True


def _verdict(value: float, must: float, good: float, less: bool) -> str:
    value = round(value, 2)
    if value <= good if less else value >= good:
        return "good"
    return "must" if (value <= must if less else value >= must) else "**missed**"


def tables(results: dict[str, Any]) -> str:
    """Everything as Markdown."""
    parts = ["| bar | what | median [least–most] | must | good | |", "|---|---|---:|---:|---:|---|"]
    for name, what, values, must, good, less in bars(results):
        if values:
            verdict = _verdict(median(values), must, good, less)
            parts.append(f"| {name} | {what} | {spread(values)} | {must} | {good} | {verdict} |")
    for scenario in results.values():
        parts += ["", *_table(scenario)]
    return "\n".join(parts)


def _table(scenario: dict[str, Any]) -> Iterator[str]:
    rounds = _by_round(scenario)
    names = list(dict.fromkeys(each["target"] for each in scenario["measured"]))
    names.sort(key=_ORDER.index)
    yield f"**{scenario['title']}** ({len(rounds)} rounds, {scenario['at']})"
    yield ""
    yield (
        "| target | CPU, µs per call or event | ÷ nginx | ÷ naive | units/s | first byte, ms | "
        "event delay, ms | memory, MB | recorder + PostgreSQL, µs per row |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    naive = "naive" if "naive" in names else "naive-tls"
    for name in names:
        found = [each[name] for each in rounds.values() if name in each]
        beside = [
            f"{median(e[role] / e['rows'] * 1e6 for e in found if e['rows']):.0f}"
            for role in ("recorder_s", "postgres_s")
            if any(e["rows"] for e in found)
        ]
        yield (
            f"| {name} | {median(_cpu(e) for e in found) * 1e6:.0f} "
            f"| {spread(ratios(scenario, name, 'nginx'), 1)} "
            f"| {spread(ratios(scenario, name, naive))} "
            f"| {median(e['units'] / e['took_s'] for e in found):.0f} "
            f"| {median(e['first_byte_ms'] for e in found):.2f} "
            f"| {median(e['delay_ms'] for e in found):.2f} "
            f"| {median(e['memory_bytes'] for e in found) / 1e6:.0f} "
            f"| {' + '.join(beside) or '–'} |"
        )


def conditions(results: dict[str, Any]) -> str:
    versions: dict[str, str] = {}
    for scenario in results.values():
        versions |= scenario.get("versions", {})
    own = {name: version(name) for name in ("aiohttp", "uvloop", "httptools")}
    listed = ", ".join(f"{name} {v}" for name, v in {**own, **versions}.items())
    return (
        f"Measured {time.strftime('%Y-%m-%d')} on {machine()}; Python "
        f"{platform.python_version()}, {listed}."
    )


def machine() -> str:
    names = [
        text.partition(":")[2].strip()
        for text in Path("/proc/cpuinfo").read_text().splitlines()
        if text.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(names)} × {names[0]}, {memory:.0f} GiB, Linux {platform.release().split('-')[0]}"


def write(results: dict[str, Any]) -> None:
    """Keep the figures: this run's scenarios replace earlier ones of the same name."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept |= results
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    replace_section("comparisons", f"{conditions(kept)}\n\n{tables(kept)}")
    _add_to_trend(results)


def replace_section(name: str, text: str) -> None:
    """Put the text between the marks of this name in docs/performance.md."""
    begin, end = _BEGIN.format(name), _END.format(name)
    before, _, rest = DOCUMENT.read_text().partition(begin)
    after = rest.partition(end)[2]
    if not after:
        sys.exit(f"docs/performance.md lacks the marks of {name}")
    DOCUMENT.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def _add_to_trend(results: dict[str, Any]) -> None:
    """One line per scenario: what a unit costs as a multiple of the frozen reference."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    is_new = not TREND.exists()
    with TREND.open("a", newline="") as file:
        out = csv.writer(file)
        if is_new:
            out.writerow(["date", "commit", "scenario", "ours_to_naive", "off_to_naive", "rounds"])
        for name, scenario in results.items():
            naive = "naive-tls" if name == "tls" else "naive"
            on, off = (ratios(scenario, own, naive) for own in ("ours", "ours-off"))
            if on and off:
                row = [f"{median(on):.3f}", f"{median(off):.3f}", len(on)]
                out.writerow([time.strftime("%Y-%m-%d"), commit.stdout.strip(), name, *row])
