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
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from proxy.assemble import Assembled, Assembler
from proxy.attempts import TRIES_MAX, Attempts
from proxy.captured import packed
from proxy.config import Config
from proxy.endpoints import RETRIEVED_RESPONSE
from proxy.enrich.canonical import Digests
from proxy.errors import RowRejected, StoreMisconfigured, StoreUnavailable
from proxy.exchange import Exchange
from proxy.log import event
from proxy.metrics import RecorderMetrics
from proxy.record import TelemetryRecord
from proxy.retrieved import complete, shows_the_end
from proxy.sockets import OpenSockets
from proxy.spool.reader import Delivery, SpoolReader
from proxy.spool.sockets import SocketDelivery
from proxy.store.postgres import Store
from proxy.views import lines

BATCH_BYTES_MAX = 32 * 1024 * 1024
IDLE_S = 0.02  # how often an idle recorder looks for news
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 10.0
SOCKET_PARTS_MAX = 4  # of a batch: a part may have 8 MiB
RETRIEVED_MAX = 100  # answers that wait for the row they complete

_FATAL = f"assembling it ended the recorder {TRIES_MAX} times"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that makes a row: an exchange of its own, or one that was cut from a socket."""

    exchange: Exchange
    assembled: Assembled
    source: Delivery | SocketDelivery

    @property
    def is_retrieval(self) -> bool:
        """Whether it has no row of its own: it asked for a response that another call began."""
        return self.exchange.start.endpoint == RETRIEVED_RESPONSE.name

    @property
    def completes(self) -> bool:
        return shows_the_end(self.assembled.record)


class Recorder:
    """Moves exchanges from one spool into one store."""

    def __init__(
        self,
        config: Config,
        reader: SpoolReader,
        store: Store,
        metrics: RecorderMetrics,
        digests: Digests,
    ) -> None:
        self._config = config
        self._reader = reader
        self._store = store
        self._metrics = metrics
        self._assembler = Assembler(config, digests)
        self._attempts = Attempts(config.data_dir / "attempts")
        self._digests = digests
        self._sockets = OpenSockets(config.capture.max_body_bytes)
        self._retrieved: deque[_Call] = deque()  # not yet known to complete a row
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
            await self._complete(0)  # nothing is in the spool that they could be waiting for
            if is_last:
                return

    async def _next_batch(self) -> list[Delivery | SocketDelivery]:
        """What has ended, gathered for a short while so that rows are written in batches."""
        settings = self._config.store
        deadline = time.monotonic() + settings.batch_delay_ms / 1000
        found: list[Delivery | SocketDelivery] = []
        room_bytes = BATCH_BYTES_MAX
        while True:
            room = settings.batch_rows - len(found)
            more = self._reader.read(max_exchanges=room, max_bytes=room_bytes)
            found += more
            room_bytes -= sum(each.tracked.size_bytes for each in more)
            parts = sum(isinstance(each, SocketDelivery) for each in found)
            found += self._reader.read_sockets(SOCKET_PARTS_MAX - parts)
            is_full = len(found) >= settings.batch_rows or room_bytes <= 0
            is_due = is_full or time.monotonic() >= deadline
            if is_due or self._stopping.is_set():
                return found
            await asyncio.sleep(IDLE_S)

    async def _handle(self, batch: Sequence[Delivery | SocketDelivery]) -> None:
        found = await asyncio.to_thread(self._calls, batch)
        calls = [call for call in found if not call.is_retrieval]
        for call in calls:
            self._announce(call.assembled.record)
        rejected = await self._stored([call.assembled for call in calls])
        refused = [call for call in calls if call.exchange.start.id in rejected]
        for call in refused:
            await self._set_aside(call.exchange, rejected[call.exchange.start.id])
        retrieved = [call for call in found if call.is_retrieval and call.completes]
        self._retrieved += retrieved
        waiting = [call.source for call in retrieved]
        self._acknowledge([d for d in batch if d not in waiting], [call.source for call in refused])
        await self._complete(RETRIEVED_MAX)

    async def _complete(self, waiting_max: int) -> None:
        """Complete the rows of retrieved responses; give up the oldest beyond so many.

        The call that began one may lie in another slot and be read later than what retrieved it.
        """
        for _ in range(len(self._retrieved)):
            call = self._retrieved.popleft()
            if await self._completed(call.assembled) or len(self._retrieved) >= waiting_max:
                self._acknowledge([call.source], [])
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

    def _calls(self, batch: Sequence[Delivery | SocketDelivery]) -> list[_Call]:
        with self._attempts.batch(sum(delivery.tracked.size_bytes for delivery in batch)):
            return [call for delivery in batch for call in self._attempted(delivery)]

    def _attempted(self, delivery: Delivery | SocketDelivery) -> list[_Call]:
        """The calls that ended with this delivery, unless looking into it ends the process."""
        id = delivery.id
        if not self._attempts.are_spent(id):
            with self._attempts.at(id):
                return self._calls_of(delivery)
        event("call given up", logging.ERROR, id=str(id), reason=_FATAL)
        if isinstance(delivery, Delivery):
            given_up = self._assembler.given_up(delivery.exchange, _FATAL)
            return [_Call(delivery.exchange, given_up, delivery)]
        self._sockets.refuse(id)
        return []

    def _calls_of(self, delivery: Delivery | SocketDelivery) -> list[_Call]:
        """The calls that ended with this delivery."""
        if isinstance(delivery, SocketDelivery):
            return [
                _Call(cut.exchange, self._assembler.assembled(cut.exchange, cut.problems), delivery)
                for cut in self._sockets.calls(delivery)
            ]
        exchange = delivery.exchange
        if exchange.end and exchange.end.is_recorded_elsewhere:
            return []
        damage = ("spool: parts of this exchange were damaged",) if delivery.is_damaged else ()
        return [_Call(exchange, self._assembler.assembled(exchange, damage), delivery)]

    def _acknowledge(
        self,
        batch: Sequence[Delivery | SocketDelivery],
        refused: Sequence[Delivery | SocketDelivery],
    ) -> None:
        """Give back what is dealt with: each call, and each socket with its last part."""
        for source in refused:
            if isinstance(source, SocketDelivery):
                self._sockets.refuse(source.part.start.id)
        taken: list[Delivery | SocketDelivery] = []
        set_aside: list[Delivery | SocketDelivery] = []
        for delivery in batch:
            if isinstance(delivery, Delivery):
                (set_aside if delivery in refused else taken).append(delivery)
            elif delivery.part.is_last:
                is_whole = self._sockets.close(delivery.part.start.id)
                (taken if is_whole else set_aside).append(delivery)
        self._reader.acknowledge(taken)
        if set_aside:
            self._reader.acknowledge(set_aside, state="quarantined")

    def _announce(self, record: TelemetryRecord) -> None:
        self._metrics.observe(record)
        row = record.as_row()
        event(
            "call",
            logging.INFO if lines.is_good(row) else logging.WARNING,
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
            line=lines.line(row, with_content=self._config.log.content),
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
