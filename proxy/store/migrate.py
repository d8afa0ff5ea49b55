"""Migrate: bring a database to the current schema.

Migrations are the numbered files in `migrations/`, plain SQL, applied in order, each once, all in
one transaction under an advisory lock, so that any number of processes may start at once. They
only ever add: an older program works on a newer schema. A table that is already there is taken
over with its rows, after a look at whether its columns can hold what this program writes. What
somebody dropped of the sums by time is made again: they follow from the rows.
"""

from __future__ import annotations

from importlib import resources

from proxy.errors import ProxyError, RowRejected, StoreMisconfigured
from proxy.record import COLUMNS
from proxy.store.connection import Connection, connect, translated

LOCK = 0x6167656E74  # "agent" in ASCII; the key of the advisory lock, the same in every version
VERSION_MIN = 13
_ENCODINGS = ("UTF8", "SQL_ASCII")  # the second takes bytes as they are

_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS agent_telemetry_migrations (
    name TEXT PRIMARY KEY,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP
)
"""
_FOUND = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
    a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS is_required
FROM pg_attribute a WHERE a.attrelid = to_regclass('agent_telemetry')
    AND a.attnum > 0 AND NOT a.attisdropped
"""
_KIND = "SELECT relkind::text FROM pg_class WHERE oid = to_regclass('agent_telemetry')"
_HAS_KEY = """
SELECT EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'id'
    WHERE i.indrelid = to_regclass('agent_telemetry') AND i.indisunique AND i.indisvalid
        AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
)
"""

_REQUIRED = ("id", "record_type", "model_used", "system_prompt", "chat_history", "duration_ms")
_TYPES: dict[str, str] = {
    **dict.fromkeys(COLUMNS, "text"),
    **dict.fromkeys(("id", "turn_id", "parent_id"), "uuid"),
    **dict.fromkeys(("project_id", "model_used"), "character varying(255)"),
    **dict.fromkeys(
        (
            *("rounds", "tool_call_count", "prompt_tokens", "completion_tokens", "total_tokens"),
            *("duration_ms", "round", "status", "cached_tokens", "cache_write_tokens"),
            *("reasoning_tokens", "ttft_ms"),
        ),
        "integer",
    ),
    **dict.fromkeys(
        (
            *("chat_history", "tool_calls", "tool_results", "request_params", "usage"),
            *("labels", "capture"),
        ),
        "jsonb",
    ),
    "created_at": "timestamp with time zone",
    "streamed": "boolean",
    "cost_usd": "numeric",
}
# Another type that holds everything the column's own type does, and is written alike.
_ALSO = {"character varying(255)": ("text", "character varying"), "text": ("character varying",)}


async def migrate(dsn: str) -> list[str]:
    """Apply what is missing; returns the names of the migrations applied.

    Raises StoreUnavailable (try again) or StoreMisconfigured (the operator acts).
    """
    connection = await connect(dsn, statement_timeout_s=0)  # an index on old rows takes its time
    try:
        with translated():
            async with connection.transaction():
                return await _migrate(connection)
    except RowRejected as refusal:  # rows of a table taken over that no migration can keep
        raise StoreMisconfigured(
            f"agent_telemetry: a row that is already there stops the migration (SQLSTATE {refusal})"
        ) from None
    finally:
        connection.terminate()


async def pending(dsn: str) -> list[str]:
    """The migrations that the database lacks. Raises StoreUnavailable or StoreMisconfigured."""
    connection = await connect(dsn)
    try:
        with translated():
            is_there = await connection.fetchval(_HAS_MIGRATIONS)
            rows = await connection.fetch(_NAMES) if is_there else []
    finally:
        connection.terminate()
    return sorted(_files().keys() - {row["name"] for row in rows})


async def _migrate(connection: Connection) -> list[str]:
    major = connection.get_server_version().major
    if major < VERSION_MIN:
        raise StoreMisconfigured(
            f"store.dsn: PostgreSQL {major} is too old: use {VERSION_MIN} or newer"
        )
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding not in _ENCODINGS:
        raise StoreMisconfigured(
            f"the database keeps text as {encoding}, which lacks letters: make another "
            "with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    await connection.execute("SET LOCAL lock_timeout = 0")
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
    await connection.execute("SET LOCAL lock_timeout = '10s'")
    await connection.execute(_MIGRATIONS)
    known = {row["name"] for row in await connection.fetch(_NAMES)}
    known -= await _dropped_sums(connection, known)
    due = {name: sql for name, sql in sorted(_files().items()) if name not in known}
    if due:
        await _check(connection)
    for name, sql in due.items():
        await connection.execute(sql)
        await connection.execute(_APPLIED, name)
    return list(due)


_HAS_MIGRATIONS = "SELECT to_regclass('agent_telemetry_migrations') IS NOT NULL"
_NAMES = "SELECT name FROM agent_telemetry_migrations"
_APPLIED = "INSERT INTO agent_telemetry_migrations (name) VALUES ($1) ON CONFLICT DO NOTHING"


_SUMS, _NOTES = "0009", "0010"  # what makes the sums by time, and the table of notes for them
_IS_THERE = "SELECT to_regclass($1) IS NOT NULL"
# What 0009 made, and is left where its table of sums was dropped.
_WITHOUT_SUMS = """
DROP TABLE IF EXISTS agent_rollup_stale;
DROP FUNCTION IF EXISTS agent_rollup_note() CASCADE;
DROP FUNCTION IF EXISTS agent_rollup_again(TIMESTAMPTZ), agent_bin(INTEGER),
    agent_begin(TIMESTAMPTZ, INTEGER), agent_rolled(TIMESTAMPTZ, TIMESTAMPTZ, INTEGER)
"""


async def _dropped_sums(connection: Connection, known: set[str]) -> set[str]:
    """The migrations to be applied again for tables of the sums by time that somebody dropped."""
    if _SUMS not in known:
        return set()
    if not await connection.fetchval(_IS_THERE, "agent_rollup"):
        await connection.execute(_WITHOUT_SUMS)
        return {_SUMS, _NOTES}
    return set() if await connection.fetchval(_IS_THERE, "agent_rollup_stale") else {_NOTES}


def _files() -> dict[str, str]:
    """Name → SQL of every migration in the package."""
    folder = resources.files("proxy.store") / "migrations"
    return {
        entry.name.removesuffix(".sql"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    }


async def _check(connection: Connection) -> None:
    """Raise StoreMisconfigured where an existing table cannot be taken over."""
    kind = await connection.fetchval(_KIND)
    if kind is None:
        return
    if kind != "r":
        what = "is partitioned, which no batch can be merged into" if kind == "p" else "is no table"
        raise _unfit(what, "rename it, or choose another database in store.dsn")
    found = {row["name"]: row for row in await connection.fetch(_FOUND)}
    for name in _REQUIRED:
        if name not in found:
            raise _unfit(f"has no column {name}", f"ADD COLUMN {name} {_TYPES[name]} …")
    for name, column in found.items():
        _check_column(name, column["type"], is_required=column["is_required"])
    if not await connection.fetchval(_HAS_KEY):
        raise _unfit("has no unique key on id", "ALTER TABLE agent_telemetry ADD PRIMARY KEY (id)")


def _check_column(name: str, found: str, *, is_required: bool) -> None:
    alter = f"ALTER TABLE agent_telemetry ALTER COLUMN {name}"
    expected = _TYPES.get(name)
    if expected is None:
        if is_required:
            raise _unfit(
                f"has a column {name} that is NOT NULL and unknown here", f"{alter} DROP NOT NULL"
            )
    elif found != expected and found not in _ALSO.get(expected, ()):
        raise _unfit(
            f"has column {name} of type {found}, not {expected}", f"{alter} TYPE {expected}"
        )


def _unfit(what: str, remedy: str) -> ProxyError:
    return StoreMisconfigured(f"the existing agent_telemetry {what}: {remedy}")
