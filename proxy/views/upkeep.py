"""Upkeep view: what purge would delete, what copy did, what the doctor found, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from proxy.views.lines import one_line

NOTHING_WRONG = "nothing is silently wrong"


class Extent(Protocol):
    """What a purge would delete (`store.purge.Extent`)."""

    @property
    def calls(self) -> int: ...
    @property
    def turns(self) -> int: ...
    @property
    def conversations(self) -> int: ...
    @property
    def oldest(self) -> datetime | None: ...
    @property
    def newest(self) -> datetime | None: ...


class Purged(Protocol):
    """What was deleted (`store.purge.Purged`)."""

    @property
    def rows(self) -> int: ...
    @property
    def raw(self) -> int: ...
    @property
    def feedback(self) -> int: ...
    @property
    def blobs(self) -> int: ...
    @property
    def messages(self) -> int: ...


class Copied(Protocol):
    """What became of a table (`store.transfer.Copied`)."""

    @property
    def table(self) -> str: ...
    @property
    def source(self) -> int: ...
    @property
    def written(self) -> int: ...
    @property
    def after(self) -> int: ...
    @property
    def is_skipped(self) -> bool: ...
    @property
    def is_whole(self) -> bool: ...


class Finding(Protocol):
    """Something that needs attention (`doctor.Finding`)."""

    @property
    def name(self) -> str: ...
    @property
    def meaning(self) -> str: ...
    @property
    def remedy(self) -> str: ...
    @property
    def calls(self) -> int: ...
    @property
    def details(self) -> Sequence[Mapping[str, Any]]: ...


def extent_as_text(extent: Extent) -> str:
    """What a purge is about to delete."""
    if extent.oldest is None or extent.newest is None:
        return "no rows"
    return (
        f"{extent.calls} calls and {extent.turns} turns of {extent.conversations} conversations, "
        f"{extent.oldest:%Y-%m-%d %H:%M} to {extent.newest:%Y-%m-%d %H:%M}, with their links, raw "
        "exchanges, feedback, and media that nothing else refers to"
    )


def purged_as_text(purged: Purged) -> str:
    """What a purge has deleted."""
    shared = f", {purged.messages} messages" if purged.messages else ""
    return (
        f"deleted {purged.rows} rows, {purged.raw} raw exchanges, {purged.feedback} feedback, "
        f"{purged.blobs} media{shared}"
    )


def copied_as_text(tables: Sequence[Copied]) -> str:
    """A line per table, and the verdict."""
    lines = [f"{'table':<18}{'source':>12}{'written':>12}{'destination':>13}"]
    for table in tables:
        note = "  not copied: the destination has links of its own" if table.is_skipped else ""
        note = note or ("" if table.is_whole else "  rows are missing")
        lines.append(
            f"{table.table:<18}{table.source:>12}{table.written:>12}{table.after:>13}{note}"
        )
    is_whole = all(table.is_whole for table in tables)
    return "\n".join([*lines, "all rows are there" if is_whole else "not whole: run it again"])


def findings_as_text(findings: Sequence[Finding], width: int) -> str:
    """A paragraph per finding: what, where, what to do."""
    if not findings:
        return NOTHING_WRONG
    return "\n\n".join("\n".join(_finding(finding, width)) for finding in findings)


def finding_as_json(finding: Finding) -> dict[str, Any]:
    """A finding as plain values."""
    return {
        "name": finding.name,
        "meaning": finding.meaning,
        "remedy": finding.remedy,
        "calls": finding.calls,
        "details": [dict(detail) for detail in finding.details],
    }


def _finding(finding: Finding, width: int) -> list[str]:
    count = f"{finding.calls} " if finding.calls else ""
    details = [
        "  " + one_line("  ".join(f"{n}={_shown(v)}" for n, v in detail.items()), width - 2)
        for detail in finding.details
    ]
    head = textwrap.wrap(f"{count}{finding.name}: {finding.meaning}", width)
    remedy = textwrap.wrap(finding.remedy, width, initial_indent="  → ", subsequent_indent="    ")
    return [*head, *details, *remedy]


def _shown(value: Any) -> str:
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)
