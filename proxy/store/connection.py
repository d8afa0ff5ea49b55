"""Connection: to PostgreSQL, with limits on everything, its errors told as ours.

No error that leaves this module carries a value: PostgreSQL quotes rows in its messages, so only
the SQLSTATE is kept, and foreign exceptions are not chained.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from typing import Any, TypeAlias

import asyncpg

from proxy.errors import StoreMisconfigured, StoreUnavailable
from proxy.store.faults import fault

CONNECT_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_S = 60.0  # the server's own limit; ours is a little longer
LOCK_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 90.0  # one transaction, also where the connection is dead without an error

Connection: TypeAlias = "asyncpg.Connection[Any]"  # generic in its stubs only


async def connect(dsn: str, *, statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> Connection:
    """A connection with limits on everything. Raises StoreUnavailable or StoreMisconfigured.

    No prepared statements are kept, so that a pooler between us and the server does no harm.
    `statement_timeout_s` = 0: no limit.
    """
    with translated():
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=statement_timeout_s * 1.2 or None,
            statement_cache_size=0,
            server_settings={
                "application_name": "agent-telemetry",
                "client_min_messages": "warning",
                "idle_in_transaction_session_timeout": f"{2 * WRITE_TIMEOUT_S:.0f}s",
                "jit": "off",
                "lock_timeout": f"{LOCK_TIMEOUT_S:.0f}s",
                "statement_timeout": f"{statement_timeout_s:.0f}s",
                "timezone": "UTC",
            },
        )


async def read_json(connection: Connection) -> None:
    """Have its JSON columns read as values, integers exact."""
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
    )


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """PostgreSQL's and the driver's errors as ours. Not chained: their texts quote rows."""
    try:
        yield
    except asyncpg.PostgresError as error:
        raise fault(error.sqlstate) from None
    except asyncpg.ClientConfigurationError:
        raise StoreMisconfigured("store.dsn: is no connection string of PostgreSQL") from None
    except (asyncpg.InterfaceError, asyncpg.InternalClientError):
        raise StoreUnavailable("the connection to PostgreSQL was lost") from None
    except OSError as error:  # TimeoutError is one
        raise StoreUnavailable(f"PostgreSQL does not answer: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its host's name is not known"
    return os.strerror(error.errno) if error.errno else "no answer in time"
