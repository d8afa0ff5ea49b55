"""Reading: the database as commands that only read use it.

They connect to whatever is configured and never start a server; where there is none, the error
says what to start.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

from proxy.config import Config
from proxy.errors import StoreMisconfigured, StoreUnavailable
from proxy.store import embedded
from proxy.store.follow import follow
from proxy.store.postgres import Row, Store
from proxy.store.selection import Selection


def dsn_of(config: Config) -> str:
    """The connection string of the configured database, the embedded one included."""
    return config.dsn or embedded.dsn(config.data_dir)


async def rows(
    config: Config, selection: Selection, last: int, *, follows: bool
) -> AsyncIterator[Row]:
    """The last rows, oldest first; with `follows` each further one as it is committed."""
    async with opened(config) as store:
        if follows:
            async for row in follow(store, selection, last=last):
                yield row
        else:
            for row in await store.latest(selection, last):
                yield row


@contextlib.asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Store]:
    """The configured database; its errors say what to start."""
    async with Store(dsn_of(config), config.store) as store:
        with remedied(config):
            yield store


@contextlib.contextmanager
def remedied(config: Config) -> Iterator[None]:
    """That the database does not answer, with what to do about it; other errors say it."""
    try:
        yield
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{error}; {_remedy(config)}") from None


async def is_ready(config: Config) -> bool:
    """Whether the database answers now and holds the table."""
    async with Store(dsn_of(config)) as store:
        try:
            found = await store.fetch("SELECT to_regclass('agent_telemetry') IS NOT NULL AS found")
        except (StoreUnavailable, StoreMisconfigured):
            return False
    return bool(found[0]["found"])


def _remedy(config: Config) -> str:
    if config.dsn:
        return "check store.dsn, or that the database runs"
    return f"start the embedded one ({config.data_dir}) with: agent-telemetry serve"
