"""Report: what the suites counted on one commit, beside what is asked of them, as a page."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.faults.scale import ROOT
from tests.faults.site.killpoints import POINTS

PAGE = ROOT / "docs" / "faults.md"
Figures = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Row:
    """`counted` figures of a suite add up to what was reached; none: all but those of `told`."""

    what: str
    suite: str
    counted: tuple[str, ...]
    wanted: int
    unit: str
    result: str = ""  # with the suite's figures by name
    without: tuple[str, ...] = ()

    def reached(self, figures: Figures) -> int:
        found = figures.get(self.suite, {})
        names = self.counted or found.keys() - set(self.without)
        return int(sum(found.get(name, 0) for name in names))

    def line(self, figures: Figures) -> str:
        found = {name: f"{value:,.6g}" for name, value in figures.get(self.suite, {}).items()}
        reached, is_short = self.reached(figures), self.reached(figures) < self.wanted
        result = "not all of it was run" if is_short else self.result.format_map(_Told(found))
        return f"| {self.what} | {self.wanted:,} {self.unit} | {reached:,} | {result} |"


class _Told(dict):
    def __missing__(self, name: str) -> str:
        return "?"


_KILLED = ("calls", "seen", "cut")
ROWS = (
    Row(
        "The spool against a plain model: crashes, full disks, damage, other instances",
        "spool model",
        ("sequences",),
        2000,
        "sequences of up to 100 actions",
        "0 violations",
    ),
    Row(
        "A segment cut at every length",
        "corruption",
        ("cuts",),
        8000,
        "lengths",
        "what lies before the cut is whole, the rest is counted; no crash",
    ),
    Row(
        "A segment with one bit flipped",
        "corruption",
        ("flips",),
        5000,
        "bits",
        "one call is hurt at most and says so; its neighbours are whole",
    ),
    Row(
        "Each file operation of the spool failed, once and until mended: ENOSPC, EIO, EMFILE, "
        "EROFS, EDQUOT, a short write",
        "file operations",
        ("tried",),
        5000,
        "failures",
        "no crash, no harm to the call, loss counted exactly",
    ),
    Row(
        "Power cuts: what was not synced missing, torn or in another order",
        "power cuts",
        ("states",),
        20_000,
        "states of the disk",
        "what was synced is whole; nothing is made up; the counts add up",
    ),
    Row(
        "A spool's directory with files missing, cut, huge, strange or of other kinds",
        "recovery",
        ("directories",),
        2000,
        "directories",
        "who begins records and delivers, or says where it cannot",
    ),
    Row(
        "kill -9 at named points, in the middle of writes too, ten at each",
        "kill points",
        (),
        10 * len(POINTS),
        "kills",
        "{calls} calls: 0 lost, 0 double, equal to what the client received",
        _KILLED,
    ),
    Row(
        "kill -9 at random of gateway, recorder and PostgreSQL, streams included",
        "random kills",
        (),
        200,
        "kills",
        "{calls} calls, {cut} of them cut by a kill: 0 lost, 0 double",
        _KILLED,
    ),
    Row(
        "PostgreSQL down while calls are made, then started",
        "database down",
        ("calls",),
        20_000,
        "calls",
        "memory of gateway {gateway_growth_mb_max} MB, of recorder "
        "{recorder_growth_mb_max} MB; drained, 0 lost, 0 double",
    ),
    Row(
        "The PostgreSQL conversation cut before, in and after each message, or reset",
        "database",
        ("cuts",),
        300,
        "cuts",
        "0 double, 0 lost; {stalls} stalls as well",
    ),
    *(
        Row(
            f"Poisonous values in the {position} row of a batch",
            "database",
            (f"poison_{position}",),
            500,
            "values",
            "every row lands",
        )
        for position in ("first", "middle", "last")
    ),
    Row(
        "Generated exchanges in five codings, split anywhere",
        "http",
        ("exchanges",),
        5000,
        "exchanges",
        "byte-identical both ways, and in the record",
    ),
    Row(
        "Recorded replies cut at every byte, closed or reset",
        "http",
        ("cuts",),
        10_000,
        "cuts",
        "none looks whole to the agent",
    ),
    Row(
        "Mutated byte strings at the listener",
        "http",
        ("mutated",),
        100_000,
        "strings",
        "no crash, no connection elsewhere, no secret in the log",
    ),
    Row(
        "Streams at once, for two minutes",
        "streams",
        ("streams",),
        1000,
        "streams",
        "{seconds_max} s, 0 broken; gateway {gateway_mb_max} MB",
    ),
    Row(
        "Time to the first byte with each part broken, in turn with a healthy gateway",
        "first byte",
        ("rounds",),
        1000,
        "rounds",
        "p50 within a tenth of the healthy one, see below",
    ),
)
STATES = ("healthy", "PostgreSQL down", "disk full", "recorder dead")


def is_reached(figures: Figures) -> bool:
    """Whether everything that is asked for was run."""
    return all(row.reached(figures) >= row.wanted for row in ROWS)


def page(figures: Figures, commit: str) -> str:
    table = "\n".join(row.line(figures) for row in ROWS)
    return f"""# What was tried to break it

Written by `make faults` from what it counted on commit `{commit}`. Each suite compares what
clients saw (a ledger of ids, bytes and outcomes) with the table, and fails on any difference; a
figure is counted once its check has passed. A short form of each runs with `make test`, except for
the comparison of times. Which fault is tried where: [failure-matrix.md](failure-matrix.md).

| what | asked for | reached | result |
|---|---|---|---|
{table}

## Time to the first byte

What the gateway adds to a direct call, four gateways asked in turn in each round of one run
(`bench/faults.py`), so that whatever the machine does meanwhile hits all alike.

| state | added p50, ms | p99, ms | p50 ÷ healthy |
|---|---|---|---|
{_first_byte(figures.get("first byte", {}))}

{_soak(figures.get("soak", {}))}
The kill points are listed in `tests/faults/site/killpoints.py`. They wrap the program's functions
from outside; the program itself has none. What a gateway killed while its disk stands still loses
(the records that wait in its memory for the disk) is not tried by kills; that a busy machine is not
taken for such a disk is (`tests/spool/test_kill.py`).
"""


def _first_byte(found: Mapping[str, float]) -> str:
    if not found:
        return "| not run | | | |"
    lines = []
    for state in STATES:
        p50, p99 = (found.get(f"{state} {part}_us_max", 0) / 1000 for part in ("p50", "p99"))
        ratio = p50 / (found["healthy p50_us_max"] / 1000)
        lines.append(f"| {state} | {p50:.2f} | {p99:.2f} | {ratio:.2f} |")
    return "\n".join(lines)


def _soak(found: Mapping[str, float]) -> str:
    if not found.get("minutes"):
        return ""
    growth = ", ".join(
        f"{name.removesuffix('_growth_max').replace('_', ' ')} {value:+g}"
        for name, value in found.items()
        if name.endswith("_growth_max")
    )
    return f"""## Soak

{found["minutes"]:g} minutes with a random fault in each: {found["faults"]:g} faults over
{found["calls"]:,.0f} calls, ledger equal to table at the end. Growth after the first third:
{growth or "not measured in a run of less than ten minutes"}.
"""
