"""The card of a data set: what is in it, what was left out and why, and where each example is from.

Says nothing that changes from run to run, so that the same rows give the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from proxy.export.staging import Facts

LISTED_MAX = 20  # rows named for one reason
_BAR = 40


@dataclass(slots=True)
class Tally:
    """What has become of the conversations."""

    splits: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    stop_reasons: Counter[str] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)  # by the next power of two
    tokens_total: int = 0
    redactions: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    skipped_rows: dict[str, list[str]] = field(default_factory=dict)

    @property
    def examples(self) -> int:
        return sum(self.splits.values())

    def take(self, facts: Facts) -> None:
        self.splits[facts.split] += 1
        self.models[facts.model] += 1
        self.stop_reasons[facts.stop_reason or "not ended"] += 1
        self.redactions += facts.redactions
        if facts.tokens is not None:
            self.tokens[1 << max(0, facts.tokens - 1).bit_length()] += 1
            self.tokens_total += facts.tokens

    def skip(self, reason: str, row: object) -> None:
        self.skipped[reason] += 1
        listed = self.skipped_rows.setdefault(reason, [])
        if len(listed) < LISTED_MAX:
            listed.append(str(row))


def head(tally: Tally, about: Mapping[str, str]) -> Iterator[str]:
    """The lines of the card before its lineage."""
    yield "# Data set"
    yield ""
    yield "Made by agent-telemetry from recorded model calls: one example per conversation leaf."
    yield from _table("", ("", ""), about.items())
    yield from _table("Examples", ("split", "examples"), sorted(tally.splits.items()))
    yield from _table("Models", ("model", "examples"), _ranked(tally.models))
    yield from _table(
        "How the turns ended", ("stop reason", "examples"), _ranked(tally.stop_reasons)
    )
    yield from _tokens(tally)
    if tally.redactions:
        yield from ("", f"Redacted again before writing: {tally.redactions} places.")
    skipped = (
        (reason, count, " ".join(tally.skipped_rows[reason]) + (" …" if count > LISTED_MAX else ""))
        for reason, count in _ranked(tally.skipped)
    )
    yield from _table("Left out", ("reason", "conversations", "rows"), skipped)
    yield from ("", "## Lineage", "")
    yield "| split | line | row that holds the example | rows of earlier calls it contains |"
    yield "|---|---|---|---|"


def lineage(facts: Facts, line: int) -> str:
    """One example: where it stands, and the ids of its rows."""
    *earlier, holding = facts.rows
    return f"| {facts.split} | {line} | {holding} | {' '.join(earlier)} |"


def _tokens(tally: Tally) -> Iterator[str]:
    """A histogram over powers of two."""
    if not tally.tokens:
        return
    yield from ("", "## Tokens", "", f"Altogether {tally.tokens_total:,}, context and answer.", "")
    yield "```"
    most = max(tally.tokens.values())
    for limit, count in sorted(tally.tokens.items()):
        yield f"≤ {limit:>9,}  {count:>9,}  {'█' * -(-count * _BAR // most)}"
    yield "```"


def _table(title: str, names: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    found = list(rows)
    if not found:
        return
    columns = list(names)
    yield from ("", f"## {title}") if title else ()
    yield from ("", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|")
    for row in found:
        yield f"| {' | '.join(_cell(value) for value in row)} |"


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
