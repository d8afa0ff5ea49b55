"""Recorder: the background pipeline. Read, decode, enrich, store, acknowledge.

One task in a process of its own; it can be killed at any time. An exchange is acknowledged only
after its row is committed, and rows are idempotent by id, so whatever is done twice changes
nothing. While the database is away the one batch in hand is tried again for ever with growing
pauses; everything behind it waits in the spool, so memory stays flat.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from proxy import reporting
from proxy.assemble import Assembled, Assembler
from proxy.attempts import TRIES_MAX, Attempts
from proxy.captured import packed
from proxy.config import Config
from proxy.endpoints import REPORTS, RETRIEVED_RESPONSE
from proxy.enrich.digests import Digests
from proxy.errors import RowRejected, StoreMisconfigured, StoreUnavailable
from proxy.exchange import Exchange
from proxy.log import event
from proxy.metrics import RecorderMetrics
from proxy.record import TelemetryRecord
from proxy.report import Report
from proxy.retrieved import complete, shows_the_end
from proxy.source import Delivery, Source
from proxy.store.postgres import Store
from proxy.views import lines

BATCH_BYTES_MAX = 32 * 1024 * 1024
IDLE_S = 0.02  # how often an idle recorder looks for news
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 10.0
LOOK_AGAIN_S = 0.5  # for the row that a retrieved answer completes, while nothing is read
RETRIEVED_MAX = 100  # answers that wait for the row they complete

_FATAL = f"assembling it ended the recorder {TRIES_MAX} times"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that makes a row: an exchange of its own, or one that was cut from a socket."""

    exchange: Exchange
    assembled: Assembled
    source: Delivery

    @property
    def is_retrieval(self) -> bool:
        """Whether it has no row of its own: it asked for a response that another call began."""
        return self.exchange.start.endpoint == RETRIEVED_RESPONSE.name

    @property
    def completes(self) -> bool:
        return shows_the_end(self.assembled.record)


@dataclass(frozen=True, slots=True)
class _Said:
    """A report from outside, or why there is none in the exchange."""

    exchange: Exchange
    report: Report | str
    source: Delivery


class Recorder:
    """Moves exchanges from one source into one store."""

    def __init__(
        self,
        config: Config,
        source: Source,
        store: Store,
        metrics: RecorderMetrics,
        digests: Digests,
    ) -> None:
        self._config = config
        self._source = source
        self._store = store
        self._metrics = metrics
        self._assembler = Assembler(config, digests)
        self._attempts = Attempts(config.data_dir / "attempts")
        self._digests = digests
        self._retrieved: deque[_Call] = deque()  # not yet known to complete a row
        self._looked_at = -math.inf
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ask `run` to return once what is already in the spool is stored, or cannot be."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until stopped."""
        while True:
            is_last = self._stopping.is_set()
            batch = await self._next_batch()
            if batch:
                await self._handle(batch)
                continue
            await self._complete(is_idle=True)
            if is_last:
                return

    async def _next_batch(self) -> list[Delivery]:
        """What has ended, gathered for a short while so that rows are written in batches."""
        settings = self._config.store
        deadline = time.monotonic() + settings.batch_delay_ms / 1000
        found: list[Delivery] = []
        room_bytes = BATCH_BYTES_MAX
        while True:
            room = settings.batch_rows - len(found)
            more = await self._source.read(room, room_bytes)
            found += more
            room_bytes -= sum(each.size_bytes for each in more)
            is_full = len(found) >= settings.batch_rows or room_bytes <= 0
            is_due = is_full or time.monotonic() >= deadline
            if is_due or self._stopping.is_set():
                return found
            await asyncio.sleep(IDLE_S)

    async def _handle(self, batch: Sequence[Delivery]) -> None:
        given_up: list[Delivery] = []
        told = await asyncio.to_thread(self._told, batch, given_up)
        found = [each for each in told if isinstance(each, _Call)]
        calls = [call for call in found if not call.is_retrieval]
        for call in calls:
            self._announce(call.assembled.record)
        rejected = await self._stored([call.assembled for call in calls])
        refused = [call for call in calls if call.exchange.start.id in rejected]
        for call in refused:
            await self._set_aside(call.exchange, rejected[call.exchange.start.id])
        retrieved = [call for call in found if call.is_retrieval and call.completes]
        self._retrieved += retrieved
        reports = [each for each in told if isinstance(each, _Said)]
        set_aside = [*given_up, *(call.source for call in refused)]
        set_aside += [said.source for said in reports if not await self._keep(said)]
        others = {*set_aside, *(call.source for call in retrieved)}
        stored = [delivery for delivery in batch if delivery not in others]
        await self._source.acknowledge(stored, set_aside)
        await self._complete(is_idle=False)

    async def _keep(self, said: _Said) -> bool:
        """Store a report, or set it aside; whether it was stored."""
        report, exchange = said.report, said.exchange
        reason = report if isinstance(report, str) else None
        if not isinstance(report, str):
            reason = await self._persistently(
                lambda: reporting.write(self._store, exchange, report)
            )
        if reason is not None:
            await self._set_aside(exchange, reason)
        return reason is None

    async def _complete(self, *, is_idle: bool) -> None:
        """Complete the rows of retrieved responses; give up the oldest beyond a number.

        The call that began one may lie elsewhere and be read later than what retrieved it.
        """
        now = time.monotonic()
        if is_idle and now < self._looked_at + LOOK_AGAIN_S:
            return
        self._looked_at = now
        for _ in range(len(self._retrieved)):
            call = self._retrieved.popleft()
            is_last = is_idle and self._source.is_last(call.source)
            is_given_up = is_last or len(self._retrieved) >= RETRIEVED_MAX
            if await self._completed(call.assembled) or is_given_up:
                await self._source.acknowledge([call.source])
            else:
                self._retrieved.append(call)

    async def _completed(self, found: Assembled) -> bool:
        try:
            return await self._persistently(lambda: complete(self._store, self._digests, found))
        except RowRejected as refusal:
            event(
                "completion refused", logging.ERROR, id=str(found.record.id), sqlstate=str(refusal)
            )
            return True

    def _told(self, batch: Sequence[Delivery], given_up: list[Delivery]) -> list[_Call | _Said]:
        with self._attempts.batch(sum(delivery.size_bytes for delivery in batch)):
            return [found for each in batch for found in self._attempted(each, given_up)]

    def _attempted(self, delivery: Delivery, given_up: list[Delivery]) -> Sequence[_Call | _Said]:
        """What ended with this delivery, unless looking into it ends the process."""
        id = delivery.id
        if not self._attempts.are_spent(id):
            with self._attempts.at(id):
                return self._told_by(delivery)
        event("call given up", logging.ERROR, id=str(id), reason=_FATAL)
        if delivery.exchange is not None and delivery.exchange.start.endpoint in REPORTS:
            return [_Said(delivery.exchange, _FATAL, delivery)]
        if delivery.exchange is not None:
            bare = self._assembler.given_up(delivery.exchange, _FATAL)
            return [_Call(delivery.exchange, bare, delivery)]
        given_up.append(delivery)
        return []

    def _told_by(self, delivery: Delivery) -> Sequence[_Call | _Said]:
        """The calls that ended with this delivery, or the report that it is."""
        exchange = delivery.exchange
        if exchange is not None and exchange.start.endpoint in REPORTS:
            said = reporting.read(exchange, self._assembler.redactor)
            return [_Said(exchange, said, delivery)]
        return [
            _Call(call.exchange, self._assembler.assembled(call.exchange, call.problems), delivery)
            for call in delivery.calls()
            if not (call.exchange.end and call.exchange.end.is_recorded_elsewhere)
        ]

    def _announce(self, record: TelemetryRecord) -> None:
        self._metrics.observe(record)
        with_content = self._config.log.content
        event(
            "call",
            logging.INFO if record.outcome == "complete" else logging.WARNING,
            id=str(record.id),
            project=record.project_id,
            session=record.session_id,
            upstream=record.provider,
            endpoint=record.endpoint,
            model=record.model_used,
            status=record.status,
            outcome=record.outcome,
            finish_reason=record.finish_reason,
            duration_ms=record.duration_ms,
            ttft_ms=record.ttft_ms,
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            tool_calls=len(record.tool_calls or ()),
            user_message=self._beginning(record.user_message),
            line=lambda: lines.line(record.as_row(), with_content=with_content),
        )

    def _beginning(self, text: str | None) -> str | None:
        return lines.one_line(text, 80) if text and self._config.log.content else None

    async def _stored(self, assembled: Sequence[Assembled]) -> dict[UUID, str]:
        """Write until the database has taken it; returns what is to be set aside, and why."""
        records = [each.record for each in assembled]
        beside = {each.record.id: each.beside for each in assembled}
        result = await self._persistently(lambda: self._store.write(records, beside))
        refused = {each.record.id: each.refusal for each in assembled if each.refusal}
        return refused | {id: f"sqlstate {code}" for id, code in result.rejected.items()}

    async def _persistently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until the database is there."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                result = await attempt()
            except (StoreUnavailable, StoreMisconfigured) as error:
                kind = "unavailable" if isinstance(error, StoreUnavailable) else "misconfigured"
                self._metrics.store_faults.labels(kind).inc()
                if pause_s == RETRY_FIRST_S:
                    event(
                        "store refuses; calls wait in the spool", logging.ERROR, reason=str(error)
                    )
                await self._pause(pause_s)
                pause_s = min(RETRY_MAX_S, pause_s * 2)
            else:
                if pause_s > RETRY_FIRST_S:
                    event("store takes rows again")
                return result

    async def _pause(self, seconds: float) -> None:
        """Wait; a recorder that is asked to stop meanwhile leaves the rest in the spool."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds * random.uniform(0.8, 1.2))
            raise asyncio.CancelledError

    async def _set_aside(self, exchange: Exchange, reason: str) -> None:
        self._metrics.rows_rejected.inc()
        start = exchange.start
        event("call set aside", logging.ERROR, id=str(start.id), reason=reason)
        if self._config.capture.raw == "off" or start.content != "full":
            return
        raw = packed(exchange)
        await self._persistently(
            lambda: self._store.quarantine(start.id, start.started_at, reason, raw)
        )
