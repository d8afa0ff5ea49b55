"""Doctor: is anything silently wrong, in the database or in the spool.

A finding says what, how often, where, and what to do. No finding is good news.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.config import Config
from proxy.errors import (
    StoreMisconfigured,
    StoreUnavailable,
    StreamMisconfigured,
    StreamUnavailable,
)
from proxy.reading import dsn_of, opened
from proxy.spool.totals import Totals, read_totals, summed
from proxy.store import examine

LAG_MAX = timedelta(minutes=2)  # a call that waits longer has no recorder, or no database


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that needs attention."""

    name: str
    meaning: str
    remedy: str
    calls: int
    details: tuple[Mapping[str, Any], ...] = ()


async def examined(config: Config, since: datetime) -> list[Finding]:
    """What is wrong, the spool's faults first. Never raises for the state of the database."""
    findings = list(_of_spool(summed(read_totals(config.spool_dir)), datetime.now(UTC)))
    if config.spool.transport == "nats":
        findings += await _of_fleet(config)
    try:
        return findings + await _of_database(config, since)
    except (StoreUnavailable, StoreMisconfigured) as error:
        meaning = "the database cannot be asked; calls wait in the spool"
        return [*findings, Finding("database", meaning, str(error), 0)]


async def _of_database(config: Config, since: datetime) -> list[Finding]:
    async with opened(config) as store:
        lacking = await examine.missing(store, dsn_of(config))
        if lacking:
            details = tuple({"missing": name} for name in lacking)
            meaning = "tables, columns or indexes are missing"
            return [Finding("schema", meaning, "agent-telemetry migrate", 0, details)]
        findings = []
        for question in examine.QUESTIONS:
            rows = await examine.answers(store, question, since)
            calls = sum(row["calls"] for row in rows)
            if rows:
                found = (question.name, question.meaning, question.remedy, calls, tuple(rows))
                findings.append(Finding(*found))
        return findings


async def _of_fleet(config: Config) -> list[Finding]:
    from proxy.fleet_app import read_fleet

    try:
        fleet = await read_fleet(config)
    except (StreamUnavailable, StreamMisconfigured) as error:
        meaning = "NATS cannot be asked; calls wait in the spools of their machines"
        return [Finding("fleet", meaning, str(error), 0)]
    findings = []
    silent = [member for member in fleet.members if member.is_silent]
    if silent:
        meaning = "gateways or recorders that say nothing any more"
        remedy = "see whether they run and reach NATS; what is gone for a day is put away"
        details = tuple({"role": m.role, "host": m.host, "since": m.at} for m in silent)
        waiting = sum(m.waiting for m in silent if m in fleet.gateways)
        findings.append(Finding("silent members", meaning, remedy, waiting, details))
    if fleet.not_known:
        details = tuple({"version": v, "calls": n} for v, n in sorted(fleet.not_known.items()))
        meaning, remedy = "messages that no recorder here can read", "update the recorders"
        count = sum(fleet.not_known.values())
        findings.append(Finding("newer messages", meaning, remedy, count, details))
    return findings


def _of_spool(totals: Totals, now: datetime) -> Iterator[Finding]:
    lost = {reason: number for reason, number in totals.lost.items() if number}
    if lost:
        yield Finding(
            "lost calls",
            "calls that the spool could not keep, ever",
            "make room on its disk, or raise spool.max_bytes",
            sum(lost.values()),
            tuple({"calls": number, "reason": reason} for reason, number in sorted(lost.items())),
        )
    oldest = totals.oldest_waiting_at
    if oldest is not None and now - oldest > LAG_MAX:
        yield Finding(
            "waiting calls",
            "calls wait in the spool",
            "check that a recorder runs and that the database answers",
            totals.waiting,
            ({"calls": totals.waiting, "since": oldest},),
        )
    for name, number in (("damaged", totals.damaged), ("cut short", totals.torn)):
        if number:
            meaning = f"places in the spool that are {name}"
            yield Finding(f"spool {name}", meaning, "agent-telemetry spool verify", number)
