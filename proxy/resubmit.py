"""Resubmit: calls whose row the database refused, tried once more.

For use after what refused them was put right: a decoder, or a constraint on the table. What is
stored now leaves `agent_raw`; the rest stays as it is. The spool's totals go on counting a call
that was set aside as quarantined: they say what became of it when it was read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy import reporting
from proxy.assemble import Assembler
from proxy.captured import unpacked
from proxy.config import Config
from proxy.endpoints import REPORTS
from proxy.enrich.digests import Digests
from proxy.errors import ProxyError
from proxy.exchange import Exchange
from proxy.store import raw
from proxy.store.postgres import Store
from proxy.store.raw import RawCopy


@dataclass(slots=True)
class Resubmitted:
    """What became of the calls."""

    stored: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by reason


async def resubmit(
    config: Config, store: Store, advance: Callable[[], None], digests: Digests | None = None
) -> Resubmitted:
    """Try every quarantined call again. Raises StoreUnavailable or StoreMisconfigured."""
    done = Resubmitted()
    assembler = Assembler(config, digests)
    async for copy in raw.copies(store, kept=False):
        reason = await _tried(assembler, store, copy)
        if reason is None:
            done.stored += 1
        else:
            done.refused[reason] += 1
        advance()
    return done


async def _tried(assembler: Assembler, store: Store, copy: RawCopy) -> str | None:
    """Why the call is still refused, or None."""
    try:
        exchange = unpacked(copy.exchange)
    except ProxyError as error:
        return str(error)
    if exchange.start.endpoint in REPORTS:
        reason = await _reported(assembler, store, exchange)
        if reason is None:
            await raw.forget(store, copy.id)
        return reason
    assembled = assembler.assembled(exchange)
    record = assembled.record
    result = await store.write([record], {record.id: assembled.beside})
    if record.id in result.rejected:
        return f"sqlstate {result.rejected[record.id]}"
    await raw.forget(store, copy.id)
    return None


async def _reported(assembler: Assembler, store: Store, exchange: Exchange) -> str | None:
    """The same for a report from outside."""
    found = reporting.read(exchange, assembler.redactor)
    return found if isinstance(found, str) else await reporting.write(store, exchange, found)
