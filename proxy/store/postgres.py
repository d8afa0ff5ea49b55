"""Postgres: rows into the table `agent_telemetry` and out of it again.

A batch is written in one transaction: COPY into a temporary table, then one INSERT that leaves
existing ids alone, but for the few cases in `_MERGE`. So a batch may be written any number of
times. A row that PostgreSQL refuses is found by halving the batch; the others are stored, and in
its place goes a stub without content. The ids of what was written are announced on the channel
`agent_telemetry` as part of the same transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

import asyncpg

from proxy import config
from proxy.errors import RowRejected, StoreUnavailable
from proxy.record import COLUMNS, DAMAGED, Beside, TelemetryRecord
from proxy.store.beside import write_beside, write_blobs, write_links
from proxy.store.channel import Listener, announce, listening
from proxy.store.connection import (
    CONNECT_TIMEOUT_S,
    WRITE_TIMEOUT_S,
    Connection,
    connect,
    read_json,
    translated,
)
from proxy.store.selection import Selection
from proxy.store.shared import SharedWriter, amend_shared, forget, split_amendment
from proxy.store.storable import storable

Row = dict[str, Any]

_NAMES = ", ".join(COLUMNS)
_BATCH = "agent_telemetry_batch"
_HAS_BATCH = f"SELECT to_regclass('pg_temp.{_BATCH}') IS NOT NULL"
_LARGE = (
    *("user_message", "system_prompt", "chat_history", "response_text", "response_thoughts"),
    *("tool_calls", "tool_results", "request_params", "usage", "error", "labels", "capture"),
)
# Values are compressed once, on their way into the real table: compressing takes the server
# longer than everything else together.
_UNCOMPRESSED = ", ".join(f"ALTER COLUMN {name} SET STORAGE EXTERNAL" for name in _LARGE)
_CREATE_BATCH = f"""
CREATE TEMPORARY TABLE {_BATCH} ON COMMIT DELETE ROWS
    AS SELECT {_NAMES} FROM agent_telemetry WITH NO DATA;
ALTER TABLE pg_temp.{_BATCH} {_UNCOMPRESSED}
"""  # noqa: S608 - column names are this program's own
# What the linker found out about a row outlives the row's replacement.
_LINKED = ("session_id", "turn_id", "round", "parent_id")
_REPLACED = ", ".join(
    f"{name} = COALESCE(excluded.{name}, kept.{name})"
    if name in _LINKED
    else f"{name} = excluded.{name}"
    for name in COLUMNS
    if name != "id"
)
# Replaced once: what a crash had left, by the true outcome; a stub, by the row it stands for, if
# that is whole: the spool may give parts of a call again that it had given whole. A turn that
# goes on is written again. In order of ids, so that two recorders with the same rows wait for each
# other instead of locking each other out.
_MERGE = f"""
INSERT INTO agent_telemetry AS kept ({_NAMES}) SELECT {_NAMES} FROM pg_temp.{_BATCH}
    ORDER BY id
ON CONFLICT (id) DO UPDATE SET {_REPLACED}
WHERE kept.outcome = 'proxy_crashed' AND excluded.outcome <> 'proxy_crashed'
    OR kept.capture ? 'rejected' AND NOT COALESCE(excluded.capture ? 'rejected', FALSE)
        AND excluded.outcome IS DISTINCT FROM 'proxy_crashed'
        AND NOT COALESCE(excluded.capture -> 'problems' ? '{DAMAGED}', FALSE)
    OR kept.record_type = 'turn_summary' AND excluded.record_type = 'turn_summary'
RETURNING id, xmax <> 0 AS is_replaced
"""  # noqa: S608 - column names are this program's own
_LOCK_LINK = "SELECT FROM agent_links WHERE call_id = $1 FOR UPDATE"
_QUARANTINE = """
INSERT INTO agent_raw (id, created_at, reason, exchange) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, exchange = excluded.exchange
WHERE octet_length(agent_raw.exchange) <= octet_length(excluded.exchange)
"""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a batch. `written` counts rows inserted or replaced; the rest, but for
    `rejected` (id → SQLSTATE), were there already."""

    written: int
    rejected: Mapping[UUID, str]


class Store:
    """One database, written and read over one connection each, opened when first needed."""

    def __init__(self, dsn: str, settings: config.Store | None = None) -> None:
        self._dsn = dsn
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._writing = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._is_announcing = True
        self._shared: SharedWriter | None = None
        if settings is not None and settings.history == "shared":
            self._shared = SharedWriter(is_partitioned=settings.partitions)

    async def connect(self) -> None:
        """Open the writing connection now. Raises StoreUnavailable or StoreMisconfigured."""
        async with self._writing:
            await self._connected_writer()

    async def ping(self) -> None:
        """Return if the database answers a query now."""
        await self.fetch("SELECT 1")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        for connection in (self._writer, self._reader):
            if connection is not None and not connection.is_closed():
                connection.terminate()  # nothing is open on it; a polite close could hang
        self._writer = self._reader = None

    # --- writing ---

    async def write(
        self, records: Sequence[TelemetryRecord], beside: Mapping[UUID, Beside] | None = None
    ) -> WriteResult:
        """Store a batch, and what lies beside its rows by their ids, or nothing of it.

        Raises StoreUnavailable or StoreMisconfigured: write it again later.
        """
        rejected: dict[UUID, str] = {}
        async with self._writing:
            written = await self._write(_deduplicated(records), beside or {}, rejected)
        return WriteResult(written, rejected)

    async def execute(self, statement: str, *values: Any) -> None:
        """One writing statement in a transaction of its own.

        Raises StoreUnavailable, StoreMisconfigured, or RowRejected.
        """
        async with self._writing:
            connection = await self._connected_writer()
            with translated():
                await connection.execute(statement, *values)

    async def quarantine(self, id: UUID, created_at: datetime, reason: str, raw: bytes) -> None:
        """Keep an exchange that could not become a row, as it was; of two copies the larger."""
        async with self._writing:
            connection = await self._connected_writer()
            with translated():
                await connection.execute(_QUARANTINE, id, created_at, reason, raw)

    async def amend(
        self, id: UUID, columns: Mapping[str, Any], beside: Beside, *, only_if: str = "TRUE"
    ) -> bool:
        """Replace some columns of a row by values as `storable` makes them, and what lies beside.

        `only_if` is a condition on the row, in SQL; whether there was such a row is returned.
        Raises StoreUnavailable, StoreMisconfigured, or RowRejected.
        """
        unknown = columns.keys() - set(COLUMNS)
        if unknown:
            raise ValueError(f"no columns: {sorted(unknown)}")
        async with self._writing:
            connection = await self._connected_writer()
            with translated():
                async with connection.transaction():
                    if beside.link is not None:  # the linker's order, else both would wait
                        await connection.execute(_LOCK_LINK, id)
                    await write_blobs(connection, beside.blobs)
                    own, shared = await split_amendment(connection, id, columns)
                    changes = ", ".join(f"{name} = ${place}" for place, name in enumerate(own, 2))
                    query = (
                        f"UPDATE agent_telemetry SET {changes} "  # noqa: S608 - both are ours
                        f"WHERE id = $1 AND {only_if} RETURNING id"
                    )
                    if not await connection.fetch(query, id, *own.values()):
                        return False
                    if shared is not None:
                        await amend_shared(connection, id, shared)
                    if beside.link is not None:
                        await write_links(connection, [beside.link])
        return True

    async def _write(
        self,
        records: list[TelemetryRecord],
        beside: Mapping[UUID, Beside],
        rejected: dict[UUID, str],
    ) -> int:
        """Write the batch, by halves where a row in it is refused."""
        if not records:
            return 0
        try:
            return await self._transaction(records, beside)
        except RowRejected as refusal:
            if len(records) == 1:
                return await self._write_stub(records[0], str(refusal), rejected)
        middle = len(records) // 2
        before = await self._write(records[:middle], beside, rejected)
        return before + await self._write(records[middle:], beside, rejected)

    async def _write_stub(
        self, record: TelemetryRecord, sqlstate: str, rejected: dict[UUID, str]
    ) -> int:
        rejected[record.id] = sqlstate
        try:
            return await self._transaction([_stub(record, sqlstate)], {})
        except RowRejected:  # not even that: a constraint of the operator's own
            return 0

    async def _transaction(
        self, records: list[TelemetryRecord], beside: Mapping[UUID, Beside]
    ) -> int:
        """One batch or nothing. A connection on which anything else failed is not used again."""
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                with translated():
                    connection = await self._connected_writer()
                    return await self._copied(connection, records, beside)
        except RowRejected:
            await self._rolled_back()
            raise
        except TimeoutError:
            self._drop_writer()
            raise StoreUnavailable(f"PostgreSQL took over {WRITE_TIMEOUT_S:g} s") from None
        except BaseException:  # a cancellation too: nobody knows what is under way
            self._drop_writer()
            raise

    async def _copied(
        self,
        connection: Connection,
        records: list[TelemetryRecord],
        beside: Mapping[UUID, Beside],
    ) -> int:
        await connection.execute("BEGIN")
        if not await connection.fetchval(_HAS_BATCH):
            await connection.execute(_CREATE_BATCH)
        try:
            await connection.copy_records_to_table(
                _BATCH,
                schema_name="pg_temp",
                columns=COLUMNS,
                records=self._rows(records),  # made while the server reads the ones before
            )
        except (ValueError, TypeError, OverflowError):  # the driver's own refusal of a value
            raise RowRejected("22000") from None
        merged = await connection.fetch(_MERGE)
        ids: list[UUID] = [found["id"] for found in merged]
        await forget(connection, [found["id"] for found in merged if found["is_replaced"]])
        if self._shared is not None:
            await self._shared.write(connection, ids)
        await write_beside(connection, records, set(ids), beside)
        if self._is_announcing:
            await announce(connection, ids)
        await self._committed(connection)
        if self._shared is not None:
            self._shared.committed()
        return len(ids)

    def _rows(self, records: list[TelemetryRecord]) -> Iterator[tuple[Any, ...]]:
        return map(storable, records) if self._shared is None else self._shared.rows(records)

    async def _committed(self, connection: Connection) -> None:
        try:
            await connection.execute("COMMIT")
        except asyncpg.ProgramLimitExceededError:
            # The queue of notifications is full because some listener hangs. No row's fault.
            self._is_announcing = False
            raise StoreUnavailable("PostgreSQL takes no more notifications") from None
        self._is_announcing = True

    async def _connected_writer(self) -> Connection:
        if self._writer is None or self._writer.is_closed():
            self._writer = await connect(self._dsn)
        return self._writer

    async def _rolled_back(self) -> None:
        if self._writer is None:
            return
        try:
            await self._writer.execute("ROLLBACK", timeout=CONNECT_TIMEOUT_S)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            self._drop_writer()

    def _drop_writer(self) -> None:
        if self._writer is not None:
            self._writer.terminate()
            self._writer = None

    # --- reading ---

    async def fetch(self, query: str, *values: Any) -> list[Row]:
        """The rows of a query, JSON columns as values, integers exact."""
        async with self._reading:
            try:
                with translated():
                    if self._reader is None or self._reader.is_closed():
                        self._reader = await connect(self._dsn)
                        await read_json(self._reader)
                    found = await self._reader.fetch(query, *values)
            except BaseException:
                if self._reader is not None:
                    self._reader.terminate()
                    self._reader = None
                raise
        return [dict(row) for row in found]

    async def latest(self, selection: Selection, limit: int) -> list[Row]:
        """The last rows, newest last."""
        where, values = selection.where(limit)
        query = (
            f"SELECT * FROM agent_telemetry_full WHERE {where} "  # noqa: S608 - values are parameters
            "ORDER BY created_at DESC, id DESC LIMIT $1"
        )
        return (await self.fetch(query, *values))[::-1]

    async def rows(self, ids: Sequence[UUID], selection: Selection) -> list[Row]:
        """Those of the rows with these ids that are selected, in order of time."""
        where, values = selection.where(list(ids))
        return await self.fetch(
            f"SELECT * FROM agent_telemetry_full WHERE id = ANY($1) AND {where} "  # noqa: S608 - as above
            "ORDER BY created_at, id",
            *values,
        )

    async def recent_ids(self, window_s: float) -> set[UUID]:
        """The ids of all rows whose call began in the last seconds."""
        found = await self.fetch(
            "SELECT id FROM agent_telemetry "
            "WHERE created_at > CURRENT_TIMESTAMP - make_interval(secs => $1)",
            window_s,
        )
        return {row["id"] for row in found}

    def listen(self) -> contextlib.AbstractAsyncContextManager[Listener]:
        """Hear of every batch that is committed from now on. Uses a connection of its own."""
        return listening(self._dsn)


def _deduplicated(records: Sequence[TelemetryRecord]) -> list[TelemetryRecord]:
    """One record for each id: the first that is no crash, else the first; of a turn, the last.

    INSERT … ON CONFLICT refuses to touch a row twice.
    """
    kept: dict[UUID, TelemetryRecord] = {}
    for record in records:
        earlier = kept.get(record.id)
        is_better = earlier is not None and (
            (earlier.outcome == "proxy_crashed" != record.outcome)
            or record.record_type == "turn_summary"
        )
        if earlier is None or is_better:
            kept[record.id] = record
    return list(kept.values())


def _stub(record: TelemetryRecord, sqlstate: str) -> TelemetryRecord:
    """What of a refused row is short and of our own making."""
    return TelemetryRecord(
        id=record.id,
        created_at=record.created_at,
        model_used=record.model_used,
        duration_ms=record.duration_ms,
        record_type=record.record_type,
        project_id=record.project_id,
        session_id=record.session_id,
        provider=record.provider,
        endpoint=record.endpoint,
        streamed=record.streamed,
        status=record.status,
        outcome=record.outcome,
        capture={"rejected": sqlstate},
    )
