"""Whatever happens to the database, a batch is stored once, and no error quotes a row."""

import asyncio
import contextlib
import random
import tempfile
import traceback
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from proxy.errors import (
    ProxyError,
    RowRejected,
    StoreMisconfigured,
    StoreTooSlow,
    StoreUnavailable,
)
from proxy.store import postgres
from proxy.store.channel import CHANNEL, NOTIFIED_MAX
from proxy.store.embedded import EmbeddedServer
from proxy.store.faults import fault
from proxy.store.migrate import migrate
from proxy.store.postgres import Store
from tests.database import connected
from tests.faults.small_disk import enlarge, mounted
from tests.store.rows import NOW, record
from tests.store.servers import FaultyWire


async def ids_in(store):
    return sorted(row["id"] for row in await store.fetch("SELECT id FROM agent_telemetry"))


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("22P05", RowRejected),
        ("22001", RowRejected),
        ("23502", RowRejected),
        ("54000", RowRejected),
        ("54001", RowRejected),
        ("08006", StoreUnavailable),
        ("25006", StoreUnavailable),
        ("40001", StoreUnavailable),
        ("40P01", StoreUnavailable),
        ("53100", StoreUnavailable),
        ("53300", StoreUnavailable),
        ("55P03", StoreUnavailable),
        ("57014", StoreTooSlow),
        ("57P01", StoreUnavailable),
        ("57P03", StoreUnavailable),
        ("58030", StoreUnavailable),
        ("XX000", StoreUnavailable),
        (None, StoreUnavailable),
        ("28P01", StoreMisconfigured),
        ("3D000", StoreMisconfigured),
        ("3F000", StoreMisconfigured),
        ("42501", StoreMisconfigured),
        ("42P01", StoreMisconfigured),
        ("42704", StoreMisconfigured),
        ("0A000", StoreMisconfigured),
    ],
)
def test_a_sqlstate_tells_whether_to_wait_to_act_or_to_set_aside(sqlstate, kind):
    found = fault(sqlstate)
    assert type(found) is kind
    assert (sqlstate or "XX000") in str(found)


async def bytes_of_one_write(dsn, batch):
    async with FaultyWire(dsn) as wire:
        async with Store(wire.dsn) as store:
            await store.write(batch)
        return wire.passed


async def test_a_connection_cut_anywhere_stores_each_row_once(dsn, store):
    whole = await bytes_of_one_write(dsn, [record() for _ in range(3)])
    expected = len(await ids_in(store))
    cut = 0
    for budget in range(0, whole + 60, 60):
        batch = [record() for _ in range(3)]
        expected += len(batch)
        async with FaultyWire(dsn, budget=budget) as wire, Store(wire.dsn) as broken:
            try:
                await broken.write(batch)
            except StoreUnavailable:
                cut += 1
                wire.budget = None
                await broken.write(batch)
    assert cut > 50
    assert len(await ids_in(store)) == expected


async def test_a_connection_that_stalls_is_given_up(dsn, store, monkeypatch):
    batch = [record()]
    whole = await bytes_of_one_write(dsn, [record()])
    monkeypatch.setattr(postgres, "WRITE_TIMEOUT_S", 0.2)
    async with (
        FaultyWire(dsn, budget=whole // 2, stalls=True) as wire,
        Store(wire.dsn) as stalled,
    ):
        with pytest.raises(StoreUnavailable, match="took over"):
            await stalled.write(batch)
        monkeypatch.undo()
        wire.budget = None
        assert (await stalled.write(batch)).written == 1
    assert batch[0].id in await ids_in(store)


async def test_a_cancelled_write_leaves_the_store_usable(dsn, store, connection):
    await store.connect()
    await connection.execute("BEGIN; LOCK TABLE agent_telemetry")
    batch = [record()]
    writing = asyncio.create_task(store.write(batch))
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
    while not await connection.fetchval(query):
        assert not writing.done()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await connection.execute("COMMIT")
    assert (await store.write(batch)).written == 1


async def test_a_terminated_connection_is_replaced(store, connection):
    await store.write([record()])
    assert len(await store.fetch("SELECT 1")) == 1
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    batch = [record()]
    for attempt in (store.write(batch), store.fetch("SELECT 1")):
        with contextlib.suppress(StoreUnavailable):  # or the driver knew already
            await attempt
    await store.write(batch)
    assert len(await ids_in(store)) == 2


async def test_a_killed_server_loses_no_batch(tmp_path):
    server = EmbeddedServer(tmp_path, {"fsync": "off"})
    dsn = server.start()
    try:
        await migrate(dsn)
        async with Store(dsn) as store:
            batches = [[record() for _ in range(5)] for _ in range(4)]
            for batch in batches:
                await store.write(batch)
                server._process.kill()
                server.restart()
                while True:
                    try:
                        await store.write(batch)
                        break
                    except StoreUnavailable:
                        continue
            assert await ids_in(store) == sorted(row.id for batch in batches for row in batch)
    finally:
        server.stop()


async def test_a_dropped_table_is_the_operators_until_it_is_back(store, connection, dsn):
    await connection.execute("ALTER TABLE agent_telemetry RENAME TO away")
    with pytest.raises(StoreMisconfigured, match="run `agent-telemetry migrate`"):
        await store.write([record()])
    await connection.execute("ALTER TABLE away RENAME TO agent_telemetry")
    assert (await store.write([record()])).written == 1


async def test_a_read_only_database_is_waited_for(connection, store):
    await connection.execute(
        f"ALTER DATABASE {await connection.fetchval('SELECT current_database()')} "
        "SET default_transaction_read_only = on"
    )
    with pytest.raises(StoreUnavailable, match="25006"):
        await store.write([record()])
    with pytest.raises(StoreUnavailable, match="25006"):
        await store.quarantine(record().id, NOW, "why", b"raw")


@pytest.fixture
def small_tablespace(postgres):
    """A tablespace of 8 MB, and where it lies. Before any database that uses it."""
    (folder,) = parse_qs(urlsplit(postgres).query)["host"]
    with (
        tempfile.TemporaryDirectory(prefix="small-") as where,
        mounted(Path(where), "8m", Path(folder).stat().st_uid) as disk,
    ):
        asyncio.run(_executed(postgres, f"CREATE TABLESPACE small LOCATION '{disk}'"))
        yield disk
        asyncio.run(_executed(postgres, "DROP TABLESPACE small"))


async def _executed(dsn, statement):
    async with connected(dsn) as connection:
        await connection.execute(statement)


async def test_a_full_disk_of_the_database_is_waited_for(small_tablespace, dsn, store, connection):
    """Nothing of the batch is written, no row is blamed, and once there is room it is written."""
    await connection.execute("ALTER TABLE agent_telemetry SET TABLESPACE small")
    stored, chance = [], random.Random(1)
    batch = []
    with contextlib.suppress(StoreUnavailable):
        while len(stored) < 1000:
            batch = [record(response_text=chance.randbytes(50_000).hex()) for _ in range(5)]
            await store.write(batch)
            stored += batch
    assert 0 < len(stored) < 1000
    with pytest.raises(StoreUnavailable, match="53100"):
        await store.write(batch)
    assert await ids_in(store) == sorted(row.id for row in stored)
    enlarge(small_tablespace, "32m")
    assert dict((await store.write(batch)).rejected) == {}
    assert await ids_in(store) == sorted(row.id for row in [*stored, *batch])
    assert await connection.fetchval("SELECT count(*) FROM agent_raw") == 0


async def test_too_many_connections_are_waited_for(dsn, connection):
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute("CREATE ROLE limited LOGIN CONNECTION LIMIT 0")
    try:
        limited = dsn.replace("agent_telemetry@", "limited@")
        assert name in limited
        with pytest.raises(StoreUnavailable, match="53300"):
            await Store(limited).ping()
    finally:
        await connection.execute("DROP ROLE limited")


async def test_a_role_without_rights_is_the_operators(dsn, connection):
    await connection.execute("CREATE ROLE powerless LOGIN")
    store = Store(dsn.replace("agent_telemetry@", "powerless@"))
    try:
        with pytest.raises(StoreMisconfigured, match="needs SELECT, INSERT"):
            await store.write([record()])
    finally:
        await store.close()
        await connection.execute("DROP ROLE powerless")


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (("agent_telemetry@", "stranger@"), StoreMisconfigured, "28000"),
        (("@/agent_telemetry", "@/absent_test"), StoreMisconfigured, "3D000"),
        (("?", "?sslmode=odd&"), StoreMisconfigured, "no connection string"),
        (("?", "?no_such_option=1&"), StoreMisconfigured, "42704"),
        (("/postgres", "/elsewhere"), StoreUnavailable, "No such file"),
    ],
    ids=["role", "database", "sslmode", "option", "socket"],
)
async def test_a_wrong_connection_string_says_what_is_wrong(postgres, change, kind, said):
    store = Store(postgres.replace(*change))
    with pytest.raises(kind, match=said):
        await store.connect()
    with pytest.raises(kind, match=said):
        await store.ping()


async def test_a_refused_value_is_a_row_fault_also_where_the_driver_refuses(store, monkeypatch):
    real = postgres.storable

    def broken(row):
        values = list(real(row))
        if row.response_text == "broken":
            values[3] = "no jsonb, no integer: " * 2
            values[-2] = 5
        return tuple(values)

    monkeypatch.setattr(postgres, "storable", broken)
    batch = [record(), record(response_text="broken"), record()]
    result = await store.write(batch)
    assert dict(result.rejected) == {batch[1].id: "22000"}
    assert result.written == 3


CANARY = "canary" + "-41c"  # in two parts: a traceback quotes this file


async def test_no_error_quotes_what_was_stored(store, connection):
    await connection.execute(f"ALTER TABLE agent_telemetry ADD CHECK (client <> '{CANARY}')")
    kept = record(client=CANARY)
    result = await store.write([kept, record()])
    assert dict(result.rejected) == {kept.id: "23514"}
    for query in (
        f"""SELECT '{{"a": "{CANARY}\\u0000"}}'::jsonb""",
        f"INSERT INTO agent_telemetry (model_used) VALUES ('{CANARY}')",
        f"SELECT '{CANARY}'::int",
    ):
        with pytest.raises(ProxyError) as raised:
            await store.fetch(query)
        assert CANARY not in "".join(traceback.format_exception(raised.value))


async def test_every_committed_batch_is_announced_once(store, dsn):
    async with store.listen() as listener:
        batch = [record() for _ in range(NOTIFIED_MAX * 2 + 5)]
        await store.write(batch)
        await store.write(batch)  # nothing new: nothing announced
        last = [record()]
        await store.write(last)
        heard = [await listener.next(10) for _ in range(4)]
    assert [len(ids) for ids in heard] == [NOTIFIED_MAX, NOTIFIED_MAX, 5, 1]
    assert {key for ids in heard[:3] for key in ids} == {row.id for row in batch}
    assert heard[3] == (last[0].id,)


async def test_a_foreign_notification_is_ignored(store, connection):
    async with store.listen() as listener:
        await connection.execute(f"NOTIFY {CHANNEL}, 'no ids'")
        batch = [record()]
        await store.write(batch)
        assert await listener.next(10) == (batch[0].id,)
        assert await listener.next(0.001) == ()


async def test_a_full_queue_of_notifications_stops_no_batch(store, monkeypatch):
    """The server raises 54000 at COMMIT; the batch is then written without an announcement."""
    real = asyncpg.Connection.execute
    refusals = []

    async def execute(self, query, *values, **options):
        if query == "COMMIT" and not refusals:
            refusals.append(query)
            raise asyncpg.ProgramLimitExceededError("too many notifications")
        return await real(self, query, *values, **options)

    monkeypatch.setattr(asyncpg.Connection, "execute", execute)
    batch = [record()]
    async with store.listen() as listener:
        with pytest.raises(StoreUnavailable, match="notifications"):
            await store.write(batch)
        assert (await store.write(batch)).written == 1
        later = [record()]
        await store.write(later)
        assert await listener.next(10) == (later[0].id,)


async def test_a_connection_lost_before_the_rollback_is_replaced(store, monkeypatch, connection):
    await connection.execute("ALTER TABLE agent_telemetry ADD CHECK (client <> 'refused')")
    real = asyncpg.Connection.execute

    async def execute(self, query, *values, **options):
        if query == "ROLLBACK":
            self.terminate()
        return await real(self, query, *values, **options)

    monkeypatch.setattr(asyncpg.Connection, "execute", execute)
    batch = [record(), record(client="refused"), record()]
    result = await store.write(batch)
    assert dict(result.rejected) == {batch[1].id: "23514"}
    assert await ids_in(store) == sorted(row.id for row in batch)
