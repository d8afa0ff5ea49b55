"""Resubmit: calls whose row the database refused, tried once more.

For use after what refused them was put right: a decoder, or a constraint on the table. What is
stored now leaves the quarantine; the rest stays as it is.

The order is: the row, the spool's note, the copy. A kill in between costs nothing: the call is
tried again, and `spool.resubmitted` counts it once. A socket is one captured call, so it is noted
when all that was set aside of it is stored, and the copies of its calls stay until then.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from uuid import UUID

from proxy import reporting
from proxy.assemble import Assembler
from proxy.captured import unpacked
from proxy.config import Config
from proxy.endpoints import REPORTS
from proxy.enrich.digests import Digests
from proxy.errors import ProxyError
from proxy.exchange import Exchange
from proxy.spool.resubmitted import ResubmittedCalls
from proxy.store import raw
from proxy.store.postgres import Store
from proxy.store.raw import RawCopy

_Note = Callable[[UUID], Awaitable[None]]


@dataclass(slots=True)
class Resubmitted:
    """What became of the calls."""

    stored: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by reason


async def resubmit(
    config: Config, store: Store, advance: Callable[[], None], digests: Digests | None = None
) -> Resubmitted:
    """Try every quarantined call again.

    Raises StoreUnavailable, StoreMisconfigured, SpoolUnusable, or what NATS does.
    """
    async with _noting(config) as note:
        attempt = _Attempt(Assembler(config, digests), store, note)
        async for copy in raw.copies(store, kept=False):
            await attempt.take(copy)
            advance()
        await attempt.finish()
    return attempt.done


@contextlib.asynccontextmanager
async def _noting(config: Config) -> AsyncIterator[_Note]:
    """Tells whoever counts a captured call as set aside that it is stored: a spool or the fleet."""
    async with contextlib.AsyncExitStack() as stack:
        calls = stack.enter_context(ResubmittedCalls(config.spool_dir))
        members = None
        if config.spool.transport == "nats":
            from proxy.fleet_app import members_of

            members = await stack.enter_async_context(members_of(config))

        async def note(captured: UUID) -> None:
            calls.note(captured)
            if members is not None:
                await members.take_back(captured)

        yield note


@dataclass(slots=True)
class _Stored:
    """A copy whose call is stored, and whether it stays, as one of a stored row."""

    id: UUID
    is_kept: bool = False


@dataclass(slots=True)
class _Attempt:
    """One pass over all copies."""

    assembler: Assembler
    store: Store
    note: _Note
    done: Resubmitted = field(default_factory=Resubmitted)
    sockets: dict[UUID, list[_Stored]] = field(default_factory=dict)  # what is stored of each
    refused: set[UUID] = field(default_factory=set)  # sockets of which something is not

    async def take(self, copy: RawCopy) -> None:
        try:
            exchange = unpacked(copy.exchange)
        except ProxyError as error:
            self.done.refused[str(error)] += 1
            return
        stored = _Stored(copy.id)
        socket = exchange.start.socket
        reason = await self._tried(exchange, stored)
        if reason is not None:
            self.done.refused[reason] += 1
            if socket is not None:
                self.refused.add(socket)
            return
        self.done.stored += 1
        if socket is None:
            await self.note(copy.id)
            await self._let_go(stored)
        else:
            self.sockets.setdefault(socket, []).append(stored)

    async def finish(self) -> None:
        """Note the sockets of which all is stored."""
        for socket, calls in self.sockets.items():
            if socket not in self.refused:
                await self.note(socket)
            for each in calls:
                await self._let_go(each)

    async def _tried(self, exchange: Exchange, stored: _Stored) -> str | None:
        """Why the call is still refused, or None."""
        if exchange.start.endpoint in REPORTS:
            found = reporting.read(exchange, self.assembler.redactor)
            if isinstance(found, str):
                return found
            return await reporting.write(self.store, exchange, found)
        assembled = self.assembler.assembled(exchange)
        record, beside = assembled.record, assembled.beside
        stored.is_kept = beside.raw is not None
        # Its copy is not that of a stored row before it is noted.
        result = await self.store.write([record], {record.id: replace(beside, raw=None)})
        refusal = result.rejected.get(record.id)
        return None if refusal is None else f"sqlstate {refusal}"

    async def _let_go(self, stored: _Stored) -> None:
        await (raw.keep if stored.is_kept else raw.forget)(self.store, stored.id)
