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
from collections.abc import Sequence
from uuid import UUID

from proxy.assemble import Assembled, Assembler
from proxy.captured import packed
from proxy.config import Config
from proxy.enrich.canonical import Digests
from proxy.errors import StoreMisconfigured, StoreUnavailable
from proxy.log import event
from proxy.metrics import RecorderMetrics
from proxy.record import TelemetryRecord
from proxy.spool.reader import Delivery, SpoolReader
from proxy.store.postgres import Store
from proxy.views import lines

BATCH_BYTES_MAX = 32 * 1024 * 1024
IDLE_S = 0.02  # how often an idle recorder looks for news
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 10.0


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
            elif is_last:
                return

    async def _next_batch(self) -> list[Delivery]:
        """What has ended, gathered for a short while so that rows are written in batches."""
        settings = self._config.store
        deadline = time.monotonic() + settings.batch_delay_ms / 1000
        found: list[Delivery] = []
        while True:
            room = settings.batch_rows - len(found)
            found += self._reader.read(max_exchanges=room, max_bytes=BATCH_BYTES_MAX)
            is_due = time.monotonic() >= deadline or len(found) >= settings.batch_rows
            if is_due or self._stopping.is_set():
                return found
            await asyncio.sleep(IDLE_S)

    async def _handle(self, batch: Sequence[Delivery]) -> None:
        due = [d for d in batch if not (d.exchange.end and d.exchange.end.is_recorded_elsewhere)]
        assembled = await asyncio.to_thread(self._assembled, due)
        for each in assembled:
            self._announce(each.record)
        rejected = await self._stored(assembled)
        refused = [d for d in due if d.exchange.start.id in rejected]
        for delivery in refused:
            await self._set_aside(delivery, rejected[delivery.exchange.start.id])
        self._reader.acknowledge([d for d in batch if d not in refused])
        if refused:
            self._reader.acknowledge(refused, state="quarantined")

    def _assembled(self, batch: Sequence[Delivery]) -> list[Assembled]:
        return [self._assembler.assembled(d.exchange, is_damaged=d.is_damaged) for d in batch]

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
        """Write until the database has taken it; returns the rejected rows with their SQLSTATE."""
        records = [each.record for each in assembled]
        beside = {each.record.id: each.beside for each in assembled}
        pause_s = RETRY_FIRST_S
        while True:
            try:
                result = await self._store.write(records, beside)
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
                return dict(result.rejected)

    async def _pause(self, seconds: float) -> None:
        """Wait; a recorder that is asked to stop meanwhile leaves the rest in the spool."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds * random.uniform(0.8, 1.2))
            raise asyncio.CancelledError

    async def _set_aside(self, delivery: Delivery, sqlstate: str) -> None:
        self._metrics.rows_rejected.inc()
        start = delivery.exchange.start
        event("row refused", logging.ERROR, id=str(start.id), sqlstate=sqlstate)
        if self._config.capture.raw != "off" and start.content == "full":
            raw = packed(delivery.exchange)
            await self._store.quarantine(start.id, start.started_at, f"sqlstate {sqlstate}", raw)
