"""Linker: the second step behind the recorder, over committed rows.

It finds out which calls continue which, writes session, turn and round into their rows, and a
`turn_summary` row for every turn that ended. What it decides follows from the facts of whole
conversations, judged anew whenever something about them is news: so it may be stopped anywhere,
run in any number of processes (one of them works at a time), and be late; the result is the same.

Three kinds of news: calls that were not placed yet, turns that have been idle for long enough, and
reports of orchestrators.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid5

from proxy.config import Config
from proxy.enrich.reported import applied, reported_ending, with_reports
from proxy.enrich.summary import summary, with_successor
from proxy.enrich.threads import given, place, turns_of, wanted
from proxy.enrich.turns import ending, ending_if_over, idle_at
from proxy.errors import ProxyError, StoreMisconfigured, StoreUnavailable
from proxy.log import describe, event
from proxy.metrics import LinkerMetrics
from proxy.record import TelemetryRecord
from proxy.store.link_step import Asked, Known, Step
from proxy.store.links import LinkStore
from proxy.store.postgres import Row
from proxy.turn import Ending, Facts, Kind, Placement, Reported, Turn, conversation_id
from proxy.views import lines

CALLS_MAX = 500  # placed in one step
CONVERSATIONS_MAX = 100  # looked at in one step because of idle turns
REPORTS_MAX = 100
POLL_S = 0.25
PAUSE_MAX_S = 10.0
_NEWS = ("stop_reason", "rounds")  # what makes a turn worth another line of the log


@dataclass(slots=True)
class Changes:
    """What a step did."""

    calls: int = 0  # placed, or placed otherwise than before
    placed: list[UUID] = field(default_factory=list)  # calls placed for the first time
    turns: list[tuple[Row | None, TelemetryRecord]] = field(default_factory=list)
    forgotten: int = 0  # turns that turned out to be part of others
    is_idle: bool = False  # there was no news, or another linker works

    def add(self, other: Changes) -> None:
        self.calls += other.calls
        self.placed += other.placed
        self.turns += other.turns
        self.forgotten += other.forgotten


class Linker:
    """Places calls and ends turns in one database."""

    def __init__(
        self,
        config: Config,
        store: LinkStore,
        metrics: LinkerMetrics | None,
        tell: Callable[[Changes], None] | None = None,
    ) -> None:
        """`tell` hears of what `run` has done, once it is committed; it must not block."""
        self._config = config
        self._tell = tell
        self._store = store
        self._metrics = metrics
        self._calls_max = CALLS_MAX

    async def run(self) -> None:
        """Work until cancelled. While the database is away, wait with growing pauses."""
        pause_s = POLL_S
        while True:
            try:
                changes = await self.step(datetime.now(UTC), self._calls_max)
                self._calls_max = min(CALLS_MAX, self._calls_max * 2)
            except (StoreUnavailable, StoreMisconfigured) as error:
                if pause_s == POLL_S:
                    event("linker waits", logging.WARNING, reason=str(error))
                pause_s = min(PAUSE_MAX_S, pause_s * 2)
            except Exception as error:  # noqa: BLE001 - one conversation must not stop the others
                await self._retreat(error)
            else:
                pause_s = POLL_S
                self._announce(changes)
                if not changes.is_idle:
                    continue
            await asyncio.sleep(pause_s)

    async def _retreat(self, error: Exception) -> None:
        """After a step that cannot be done: take fewer calls; set a single one aside."""
        if self._calls_max > 1:
            self._calls_max = max(1, self._calls_max // 8)
            return
        event("call not linked", logging.ERROR, reason=describe(error))
        with contextlib.suppress(ProxyError):  # the database went away meanwhile: again later
            await self._store.set_first_aside()

    async def settle(self, now: datetime) -> Changes:
        """Work until there is no news at this instant."""
        total = Changes()
        while True:
            changes = await self.step(now)
            total.add(changes)
            if changes.is_idle:
                return total

    async def step(self, now: datetime, calls_max: int = CALLS_MAX) -> Changes:
        """Place the next calls and end the next turns, in one transaction."""
        async with self._store.step() as step:
            if step is None:
                return Changes(is_idle=True)
            return await self._judge(step, now, calls_max)

    async def _judge(self, step: Step, now: datetime, calls_max: int) -> Changes:
        pending = await step.pending(calls_max)
        due = await step.due(now, CONVERSATIONS_MAX)
        reports = await step.pending_reports(REPORTS_MAX)
        if not pending and not due and not reports:
            return Changes(is_idle=True)
        asked = {call.id: Asked(call.created_at, wanted(call), given(call)) for call in pending}
        named = {id for call in pending if (id := call.conversation) is not None}
        named.update(due, *reports.values())
        known = await step.around(asked.values(), named, asked.keys())
        if due:
            await step.leave(now, due, [each.facts.id for each in known])
        return await _Judgement(self._config, step, known).write(asked, reports.keys(), now)

    def _announce(self, changes: Changes) -> None:
        if self._tell is not None:
            self._tell(changes)
        for before, record in changes.turns:
            if before is not None and all(before[name] == getattr(record, name) for name in _NEWS):
                continue
            if self._metrics is not None:
                self._metrics.observe(record, is_new=before is None)
            announce(record, with_content=self._config.log.content)


def announce(record: TelemetryRecord, *, with_content: bool) -> None:
    """One line of the log for an ended turn."""
    row = record.as_row()
    event(
        "turn",
        logging.INFO if lines.is_good(row) else logging.WARNING,
        id=str(record.turn_id),
        project=record.project_id,
        session=record.session_id,
        stop=record.stop_reason,
        rounds=record.rounds,
        tools=record.tool_call_count,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        cached_tokens=record.cached_tokens,
        cost_usd=None if record.cost_usd is None else float(record.cost_usd),
        duration_ms=record.duration_ms,
        user_message=lines.one_line(record.user_message or "", 80) if with_content else None,
        line=lines.line(row, with_content=with_content),
    )


class _Judgement:
    """One step's view of some conversations, before and after."""

    def __init__(self, config: Config, step: Step, known: Sequence[Known]) -> None:
        self._config = config
        self._step = step
        self._known = {each.facts.id: each for each in known}
        facts = [each.facts for each in known]
        pinned = {each.facts.id: each.placement for each in known if each.is_context}
        self._judged = place(facts, {id: where for id, where in pinned.items() if where})
        self._turns = turns_of(facts, self._judged)
        self._reports: dict[UUID, list[Reported]] = {}

    async def write(
        self, asked: dict[UUID, Asked], reported: Iterable[UUID], now: datetime
    ) -> Changes:
        """Write what is different from before; `reported` are the reports that are news."""
        moved = self._moved(asked)
        await self._step.place(moved, asked)
        await self._disturb(moved)
        changed = await self._apply_reports(reported)
        ended, due = self._judge_turns(self._touched(moved.keys()) | changed, now)
        await self._step.keep_open(due)
        placed = [id for id in moved if self._known[id].placement is None]
        turns = await self._summarise(ended)
        changes = Changes(calls=len(moved), placed=placed, turns=turns)
        gone = self._gone(moved)
        if gone:
            await self._step.forget_summaries([uuid5(turn, "turn_summary") for turn in gone])
        changes.forgotten = len(gone)
        return changes

    def _moved(self, asked: Container[UUID]) -> dict[UUID, tuple[Facts, Placement]]:
        """The calls that were asked for, and those whose place is another now.

        Others that are pending have their turn later: their keys have not been looked up.
        """
        placements = self._judged.placements
        return {
            id: (each.facts, placements[id])
            for id, each in self._known.items()
            if not each.is_context
            and (id in asked or (not each.is_pending and each.placement != placements[id]))
        }

    async def _disturb(self, moved: Mapping[UUID, tuple[Facts, Placement]]) -> None:
        """Whoever was given to a parent, or taken from it, changes what others may have of it."""
        parents: dict[UUID, datetime] = {}
        for id, (facts, where) in moved.items():
            before = self._known[id].placement
            if before is not None and before.parent == where.parent:
                continue
            for parent in (where.parent, before.parent if before else None):
                if parent is not None:
                    at = min(facts.created_at, parents.get(parent, facts.created_at))
                    parents[parent] = at
        if parents:
            judged = {
                conversation_id(each.facts.project, self._judged.placements[id].session)
                for id, each in self._known.items()
                if not each.is_context
            }
            await self._step.disturb(parents.items(), judged)

    async def _apply_reports(self, news: Iterable[UUID]) -> set[UUID | None]:
        """Find out which turns were reported on; those for which that is different from before."""
        placements = self._judged.placements
        found = await self._step.reports(
            {turn.conversation for turn in self._turns}, [turn.id for turn in self._turns]
        )
        subs = {t.id for t in self._turns if placements[t.calls[0].id].kind is Kind.SUB_AGENT}
        self._reports = applied(self._turns, frozenset(subs), found)
        turn_of = {each.id: turn for turn, said in self._reports.items() for each in said}
        moved = [r for r in found if r.is_pending or r.applied_to != turn_of.get(r.id)]
        noted: dict[UUID, UUID | None] = dict.fromkeys(news)
        noted |= {report.id: turn_of.get(report.id) for report in moved}
        if noted:
            await self._step.note_applied(noted)
        return {turn for r in moved for turn in (r.applied_to, turn_of.get(r.id))}

    def _judge_turns(
        self, touched: set[UUID | None], now: datetime
    ) -> tuple[list[tuple[Turn, Ending]], dict[UUID, datetime | None]]:
        """Which turns have ended, and for each last call when its turn will count as idle."""
        due: dict[UUID, datetime | None] = {
            id: None
            for id, each in self._known.items()
            if each.due_at is not None and not each.is_context
        }
        ended = []
        for turn in self._turns:
            is_open = any(call.id in due for call in turn.calls)
            if turn.id not in touched and not is_open:
                continue
            found = self._ending(turn, now)
            if found is None:
                due[turn.last.id] = idle_at(turn, self._config.turns)
            else:
                due.setdefault(turn.last.id, None)
                ended.append((turn, found))
        return ended, due

    def _ending(self, turn: Turn, now: datetime) -> Ending | None:
        said = reported_ending(turn, self._reports.get(turn.id, ()))
        return said or ending(turn, self._config.turns, now)

    def _touched(self, moved: Iterable[UUID]) -> set[UUID | None]:
        """The turns that these calls belong to or follow, now or before."""
        now = self._judged.placements
        found: set[UUID | None] = set()
        for id in moved:
            for where in (now[id], self._known[id].placement):
                if where is not None:
                    found.add(where.turn)
                    if where.parent is not None and where.parent in now:
                        found.add(now[where.parent].turn)
        return found

    async def _summarise(
        self, ended: Sequence[tuple[Turn, Ending]]
    ) -> list[tuple[Row | None, TelemetryRecord]]:
        if not ended:
            return []
        content = await self._step.content(
            [call.id for turn, _ in ended for call in with_successor(turn)]
        )
        before = await self._step.summaries([turn.summary_id for turn, _ in ended])
        records = []
        for turn, how in ended:
            record = summary(turn, how, content)
            if reports := self._reports.get(turn.id):
                inferred = ending_if_over(turn, self._config.turns)
                record = with_reports(record, inferred, reports)
            records.append(record)
        await self._step.write_summaries(records)
        return [(before.get(record.id), record) for record in records]

    def _gone(self, moved: Iterable[UUID]) -> list[UUID]:
        """Turns that no call belongs to any more."""
        left = {turn.id for turn in self._turns}
        before = {each.placement.turn for id in moved if (each := self._known[id]).placement}
        return [turn for turn in before if turn is not None and turn not in left]
