"""Maintenance: the commands that go through the whole spool or database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime

from proxy.config import Config
from proxy.enrich.digests import Digests
from proxy.errors import StoreMisconfigured, StoreUnavailable
from proxy.progress import progress
from proxy.reading import dsn_of, opened, remedied
from proxy.recompute import Changes, recompute_calls
from proxy.relink import TurnChanges, count_calls, recompute_turns
from proxy.resubmit import Resubmitted, resubmit
from proxy.spool.verify import SlotCheck, verify
from proxy.store import convert, raw, rollup
from proxy.store import purge as purging
from proxy.store.links import LinkStore
from proxy.store.migrate import migrate, pending
from proxy.store.purge import Extent, Purged, Scope
from proxy.store.raw import Quarantined
from proxy.store.transfer import Copied, transfer

LOOKS_MAX = 5


def verify_spool(config: Config) -> list[SlotCheck]:
    """Each slot checked; looked at again where one in use may have moved between two counts."""
    checks = verify(config.spool_dir)
    for _ in range(LOOKS_MAX - 1):
        if all(check.is_consistent for check in checks):
            break
        checks = verify(config.spool_dir)
    return checks


async def list_quarantined(config: Config) -> list[Quarantined]:
    """The calls that are set aside, by reason."""
    async with opened(config) as store:
        return await raw.quarantined(store)


async def resubmit_all(config: Config) -> Resubmitted:
    """Try every call that is set aside again."""
    async with opened(config) as store:
        total = await raw.count(store, kept=False)
        with progress("resubmit", total) as advance:
            return await resubmit(config, store, advance, await _digests(config))


async def count_purged(config: Config, scope: Scope) -> Extent:
    """What a purge would delete."""
    async with opened(config) as store:
        return await purging.extent(store, scope)


async def purge(config: Config, scope: Scope, rows: int) -> Purged:
    """Delete the scope, about `rows` rows, with everything beside them."""
    with remedied(config), progress("rows", rows) as advance:
        return await purging.purge(dsn_of(config), scope, advance)


async def convert_rows(config: Config) -> int:
    """Have every row stored as store.history says; returns how many were not."""
    settings, dsn = config.store, dsn_of(config)
    with remedied(config), ExitStack() as stack:

        def started(rows: int) -> Callable[[int], None]:
            return stack.enter_context(progress("rows", rows))

        if settings.history == "full":
            return await convert.restore(dsn, started)
        return await convert.share(dsn, started, is_partitioned=settings.partitions)


async def copy(config: Config, destination: str) -> list[Copied]:
    """Copy all tables into another database, which gets the current schema first."""
    try:
        await migrate(destination)
    except (StoreUnavailable, StoreMisconfigured) as error:
        raise type(error)(f"--to: {error}") from None
    with remedied(config), ExitStack() as stack:
        if await pending(dsn_of(config)):
            raise StoreMisconfigured("the source has an older schema: agent-telemetry migrate")
        return await transfer(
            dsn_of(config),
            destination,
            lambda rows: stack.enter_context(progress("rows", rows)),
        )


async def recompute_conversations(config: Config, since: datetime) -> TurnChanges:
    """Judge the turns since then again."""
    async with opened(config) as store, LinkStore(dsn_of(config)) as links:
        with progress("turns", await count_calls(store, since)) as advance:
            return await recompute_turns(config, store, links, since, advance)


async def recompute(config: Config, since: datetime) -> Changes:
    """Derive the rows of calls since then again; the recorder then adds them up again."""
    async with opened(config) as store:
        digests = await _digests(config)
        total = await raw.count(store, kept=True, since=since)
        with progress("calls", total) as advance:
            changes = await recompute_calls(config, store, digests, since, advance)
        await store.execute(rollup.AGAIN, max(since, rollup.EPOCH))
    return changes


async def _digests(config: Config) -> Digests:
    async with LinkStore(dsn_of(config)) as links:
        return Digests(await links.secret())
