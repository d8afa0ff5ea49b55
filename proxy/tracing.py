"""Tracing: what was stored, sent on as OpenTelemetry spans and measurements.

Behind the linker and after its commits, so nothing waits for it: the linker leaves ids here, in a
queue with a limit; a task of its own reads their rows again and sends them. What finds the queue
full, and what the endpoint does not take, is counted and not kept. Ids of spans follow from ids of
rows (`otel/span.py`), so a turn that goes on, or is sent twice, is the same spans again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from proxy.errors import StoreMisconfigured, StoreUnavailable
from proxy.export import genai
from proxy.export.conversation import conversation_of
from proxy.export.message import Unconvertible
from proxy.linker import Changes
from proxy.log import describe, event
from proxy.metrics import TracingMetrics
from proxy.otel import measured
from proxy.otel.measured import Measured
from proxy.otel.span import (
    Context,
    Span,
    Turn,
    of_side_call,
    of_turn,
    traceparent_of,
    turn_span,
)
from proxy.store import spans as queries
from proxy.store.postgres import Row, Store
from proxy.turn import Kind

QUEUE_MAX = 10_000
BATCH_MAX = 20  # turns and calls sent in one request
AGAIN_S = 1.0
CLOSE_S = 3.0
DEPTH_MAX = 8  # sub-agents of sub-agents


class Sending(Protocol):
    """Where spans and measurements go (`otel.sender.Sender`). Both block."""

    def send(self, spans: Iterable[Span]) -> tuple[int, int]: ...
    def measure(self, measured: Iterable[Measured]) -> None: ...
    def close(self, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class News:
    """A call that has found its place, or a turn that has ended."""

    id: UUID  # the call's, or the turn's
    is_turn: bool
    is_again: bool = False  # the turn has ended before, and went on


class Tracing:
    """Sends what it is told of, in the background."""

    def __init__(
        self, store: Store, sender: Sending, metrics: TracingMetrics, *, with_content: bool
    ) -> None:
        self._with_content = with_content
        self._store = store
        self._sender = sender
        self._metrics = metrics
        self._queue: asyncio.Queue[News] = asyncio.Queue(QUEUE_MAX)
        self._in_hand: list[News] = []  # taken from the queue, and not given to the sender yet
        self._is_failing = False

    def tell(self, news: Iterable[News]) -> None:
        """Take note; never waits."""
        for each in news:
            try:
                self._queue.put_nowait(each)
            except asyncio.QueueFull:
                self._metrics.dropped.inc()

    def hear(self, changes: Changes) -> None:
        """Take note of what the linker has done; never waits."""
        self.tell(News(id, is_turn=False) for id in changes.placed)
        self.tell(
            News(record.turn_id, is_turn=True, is_again=before is not None)
            for before, record in changes.turns
            if record.turn_id is not None
        )

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._in_hand = [await self._queue.get()]
            while len(self._in_hand) < BATCH_MAX and not self._queue.empty():
                self._in_hand.append(self._queue.get_nowait())
            try:
                await self._persistently(self._in_hand)
            except Exception as error:  # noqa: BLE001  the top of a task; one batch is lost
                event("spans not made", logging.ERROR, reason=describe(error))
                self._metrics.dropped.inc(len(self._in_hand))
                self._in_hand = []

    async def close(self) -> None:
        """Send what waits, as far as that takes a few seconds, and end."""
        waiting = self._in_hand + [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        with contextlib.suppress(TimeoutError, StoreUnavailable, StoreMisconfigured):
            async with asyncio.timeout(CLOSE_S):
                for start in range(0, len(waiting), BATCH_MAX):
                    await self._send(waiting[start : start + BATCH_MAX])
        await asyncio.to_thread(self._sender.close, CLOSE_S)
        await self._store.close()

    async def _persistently(self, batch: Sequence[News]) -> None:
        """Send, once the database answers; the queue holds what comes meanwhile."""
        has_said = False
        while True:
            try:
                return await self._send(batch)
            except (StoreUnavailable, StoreMisconfigured) as error:
                if not has_said:
                    event("spans wait", logging.WARNING, reason=str(error))
                has_said = True
                await asyncio.sleep(AGAIN_S)

    async def _send(self, batch: Sequence[News]) -> None:
        calls = [each.id for each in batch if not each.is_turn]
        turns = [each.id for each in batch if each.is_turn]
        rows = await self._store.fetch(self._calls, calls, turns)
        summaries = await self._store.fetch(queries.SUMMARIES, turns)
        if self._with_content:
            rows = [_with_messages(row) for row in rows]
        ended = [turn for each in summaries if (turn := await self._turn(each, rows))]
        placed = set(calls)
        news = [row for row in rows if row["id"] in placed]
        first = {each.id for each in batch if not each.is_again}
        found = [value for row in news for value in measured.of_call(row)]
        for turn in ended:
            if turn.summary["turn_id"] in first:
                found += measured.of_turn(turn.summary, turn.calls)
        spans = [
            of_side_call(row, with_content=self._with_content)
            for row in news
            if row["turn_id"] is None
        ]
        for turn in ended:
            spans += of_turn(turn, with_content=self._with_content)
        self._in_hand = []
        self._count(*await asyncio.to_thread(self._give, spans, found))

    @property
    def _calls(self) -> str:
        return queries.CALLS_WITH_CONTENT if self._with_content else queries.CALLS

    def _give(self, spans: Sequence[Span], found: Sequence[Measured]) -> tuple[int, int]:
        self._sender.measure(found)
        return self._sender.send(spans)

    def _count(self, sent: int, failed: int) -> None:
        """Say so when an endpoint begins to refuse, and when it takes spans again."""
        self._metrics.spans.labels("sent").inc(sent)
        self._metrics.spans.labels("failed").inc(failed)
        if failed and not self._is_failing:
            event("otel.endpoint takes no spans; they are not kept", logging.ERROR, spans=failed)
        if sent and self._is_failing:
            event("otel.endpoint takes spans again")
        self._is_failing = bool(failed) or (self._is_failing and not sent)

    async def _turn(self, summary: Row, rows: Sequence[Row]) -> Turn | None:
        """The turn with its calls; None where these are gone (purged meanwhile)."""
        calls = [row for row in rows if row["turn_id"] == summary["turn_id"]]
        return Turn(summary, calls, await self._outer(calls[0])) if calls else None

    async def _outer(self, first: Row) -> Context | None:
        """The span of the turn on whose behalf a sub-agent works."""
        around: list[Row] = []
        while _is_sub_agents(first) and len(around) < DEPTH_MAX:
            found = await self._store.fetch(queries.FIRST_CALL, first["parent_id"])
            if not found or found[0]["turn_id"] is None:
                break
            first = found[0]
            around.append(first)
        if not around:
            return None
        outermost = traceparent_of(around[-1])
        trace = outermost.trace if outermost else around[-1]["turn_id"].int
        is_sampled = outermost.is_sampled if outermost else True
        return Context(trace, turn_span(around[0]["turn_id"]), is_sampled)


def _is_sub_agents(call: Row) -> bool:
    link = (call["capture"] or {}).get("link") or {}
    return link.get("kind") == Kind.SUB_AGENT and call["parent_id"] is not None


def _with_messages(call: Row) -> Row:
    """The call with its messages in the conventions' form, where they can be said so."""
    try:
        conversation = conversation_of([call], keeps_thoughts=True)
    except Unconvertible:
        return call
    given, answer = genai.given(conversation), genai.answered(conversation, call["finish_reason"])
    return call | {"input": given, "output": answer}
