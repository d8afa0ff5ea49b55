"""A database comes to the current schema from nothing, from the first form, and only once."""

import asyncio
import re
import subprocess
import sys

import pytest

from proxy.errors import StoreMisconfigured, StoreUnavailable
from proxy.record import COLUMNS
from proxy.store import migrate as module
from proxy.store.migrate import migrate
from proxy.store.postgres import Store
from tests.database import connected
from tests.store.rows import record

SEED = """
CREATE TABLE agent_telemetry (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    created_at TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
    record_type TEXT NOT NULL DEFAULT 'llm_call',
    project_id VARCHAR(255), session_id TEXT, user_message TEXT,
    model_used VARCHAR(255) NOT NULL, system_prompt TEXT NOT NULL, chat_history JSONB NOT NULL,
    response_text TEXT, response_thoughts TEXT, tool_calls JSONB, tool_results JSONB,
    stop_reason TEXT, rounds INTEGER, tool_call_count INTEGER, turn_intent TEXT, chat_mode TEXT,
    prompt_tokens INTEGER, completion_tokens INTEGER, total_tokens INTEGER,
    duration_ms INTEGER NOT NULL
);
"""
OLD_ROW = """
INSERT INTO agent_telemetry (model_used, system_prompt, chat_history, duration_ms, response_text)
VALUES ('old-model', 'old', '[{"role": "user"}]', 5, 'kept')
"""
INDEXES = {
    "idx_agent_telemetry_project": "(project_id)",
    "idx_agent_telemetry_created_at": "(created_at DESC)",
    "idx_agent_telemetry_session": "(session_id)",
    "idx_agent_telemetry_stop": "(stop_reason)",
    "idx_agent_telemetry_record_type": "(record_type)",
}


@pytest.fixture
async def database(empty_dsn):
    """A connection to an empty database."""
    async with connected(empty_dsn) as connection:
        yield connection


async def described(connection):
    """Column → type, whether it may be NULL, default."""
    found = await connection.fetch(
        "SELECT column_name, data_type, character_maximum_length, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_name = 'agent_telemetry'"
    )
    return {row[0]: tuple(row[1:]) for row in found}


async def test_a_database_that_lacks_letters_is_named(database, empty_dsn):
    name = "latin_1_only"
    encoding = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    await database.execute(f"CREATE DATABASE {name} {encoding}")
    try:
        where = re.sub(r"/\w+\?", f"/{name}?", empty_dsn)
        with pytest.raises(StoreMisconfigured, match=r"LATIN1.*ENCODING 'UTF8'"):
            await migrate(where)
    finally:
        await database.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_an_empty_database_gets_the_whole_schema(database, empty_dsn):
    assert await migrate(empty_dsn) == sorted(module._files())
    found = await described(database)
    assert set(found) == set(COLUMNS)
    indexes = dict(
        await database.fetch(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'agent_telemetry'"
        )
    )
    for name, columns in INDEXES.items():
        assert indexes[name].endswith(columns)
    tables = await database.fetch("SELECT relname FROM pg_class WHERE relname LIKE 'agent\\_%'")
    assert {"agent_links", "agent_blobs", "agent_raw", "agent_feedback", "agent_training"} <= {
        row["relname"] for row in tables
    }
    assert await migrate(empty_dsn) == []


async def test_the_columns_of_the_first_form_are_exactly_as_specified(database, empty_dsn):
    await database.execute(SEED)
    specified = await described(database)
    await database.execute("DROP TABLE agent_telemetry")
    await migrate(empty_dsn)
    found = await described(database)
    assert {name: found[name] for name in specified} == specified
    further = {name: found[name] for name in found.keys() - specified.keys()}
    assert {nullable for _, _, nullable, _ in further.values()} == {"YES"}
    assert {default for *_, default in further.values()} == {None}


async def test_the_expected_types_are_those_of_the_schema(database, empty_dsn):
    await migrate(empty_dsn)
    types = {row["name"]: row["type"] for row in await database.fetch(module._FOUND)}
    assert types == module._TYPES


@pytest.mark.parametrize(
    "before",
    [
        SEED,
        SEED.replace("project_id VARCHAR(255), session_id TEXT,", "session_id TEXT,").replace(
            "duration_ms INTEGER NOT NULL", "duration_ms INTEGER NOT NULL, project_id VARCHAR(255)"
        ),
        SEED + "ALTER TABLE agent_telemetry ADD turn_id UUID, ADD labels JSONB;",
        SEED + "ALTER TABLE agent_telemetry ADD own TEXT, ADD own_id INTEGER NOT NULL DEFAULT 5;",
        SEED + "CREATE INDEX idx_agent_telemetry_stop ON agent_telemetry (stop_reason);",
        SEED.replace("stop_reason TEXT, ", "").replace("chat_mode TEXT,", ""),
        SEED.replace("VARCHAR(255)", "TEXT").replace("session_id TEXT", "session_id VARCHAR"),
    ],
    ids=["seed", "order", "some-new", "own-columns", "own-index", "fewer", "wider"],
)
async def test_an_existing_table_is_taken_over_with_its_rows(database, empty_dsn, before):
    await database.execute(before)
    await database.execute(OLD_ROW)
    assert await migrate(empty_dsn) == sorted(module._files())
    assert set(COLUMNS) <= set(await described(database))
    async with Store(empty_dsn) as store:
        assert (await store.write([record(session_id="new")])).written == 1
        rows = await store.fetch("SELECT * FROM agent_telemetry ORDER BY duration_ms")
        assert [row["response_text"] for row in rows] == ["kept", "hi"]
        assert rows[0]["chat_history"] == [{"role": "user"}]
        assert rows[0]["capture"] is None


@pytest.mark.parametrize(
    ("before", "named", "remedy"),
    [
        (
            SEED.replace("rounds INTEGER", "rounds TEXT"),
            "column rounds of type text, not integer",
            "ALTER COLUMN rounds TYPE integer",
        ),
        (
            SEED.replace("chat_history JSONB", "chat_history JSON"),
            "column chat_history of type json, not jsonb",
            "ALTER COLUMN chat_history TYPE jsonb",
        ),
        (
            SEED.replace("model_used VARCHAR(255)", "model_used VARCHAR(100)"),
            "column model_used of type character varying(100)",
            "ALTER COLUMN model_used TYPE character varying(255)",
        ),
        (
            SEED + "ALTER TABLE agent_telemetry ADD usage TEXT;",
            "column usage of type text, not jsonb",
            "ALTER COLUMN usage TYPE jsonb",
        ),
        (
            SEED + "ALTER TABLE agent_telemetry ADD owner TEXT NOT NULL;",
            "column owner that is NOT NULL",
            "ALTER COLUMN owner DROP NOT NULL",
        ),
        (
            SEED.replace("system_prompt TEXT NOT NULL, ", ""),
            "no column system_prompt",
            "ADD COLUMN system_prompt",
        ),
        (SEED.replace("PRIMARY KEY", ""), "no unique key on id", "ADD PRIMARY KEY (id)"),
        ("CREATE VIEW agent_telemetry AS SELECT 1 AS id;", "is no table", "rename it"),
        (SEED.replace(");\n", ") PARTITION BY HASH (id);\n"), "is partitioned", "rename it"),
    ],
    ids=["integer", "json", "short", "additional", "required", "missing", "key", "view", "parts"],
)
async def test_a_table_that_cannot_be_taken_over_is_named_with_the_remedy(
    database, empty_dsn, before, named, remedy
):
    await database.execute(before)
    with pytest.raises(StoreMisconfigured, match=re.escape(named)) as raised:
        await migrate(empty_dsn)
    assert remedy in str(raised.value)
    assert not await database.fetchval("SELECT to_regclass('agent_links') IS NOT NULL")


async def test_rows_that_no_migration_can_keep_stop_it_without_quoting_them(
    database, empty_dsn, monkeypatch
):
    await database.execute(SEED)
    await database.execute(OLD_ROW)
    broken = {"0001": "ALTER TABLE agent_telemetry ADD CHECK (response_text <> 'kept')"}
    monkeypatch.setattr(module, "_files", lambda: broken)
    with pytest.raises(StoreMisconfigured, match="SQLSTATE 23514") as raised:
        await migrate(empty_dsn)
    assert "kept" not in str(raised.value)


async def test_an_old_server_is_refused(empty_dsn, monkeypatch):
    monkeypatch.setattr(module, "VERSION_MIN", 99)
    with pytest.raises(StoreMisconfigured, match="is too old: use 99 or newer"):
        await migrate(empty_dsn)


async def test_a_migration_of_a_newer_version_does_no_harm(dsn, store):
    await store.fetch("INSERT INTO agent_telemetry_migrations (name) VALUES ('9999')")
    assert await migrate(dsn) == []


async def test_a_table_that_is_in_use_is_waited_for_and_then_tried_again(database, empty_dsn):
    await database.execute(SEED)
    await database.execute("BEGIN; LOCK TABLE agent_telemetry")
    waiting = asyncio.create_task(migrate(empty_dsn))
    async with connected(empty_dsn) as other:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
        while not await other.fetchval(query):
            assert not waiting.done()
        await database.execute("COMMIT")
        assert await waiting


async def test_no_server_is_unavailable(tmp_path):
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        await migrate(f"postgresql://nobody@/nothing?host={tmp_path}")


MIGRATE = "import asyncio, sys; from proxy.store.migrate import migrate; " + (
    "print(len(asyncio.run(migrate(sys.argv[1]))))"
)


def test_several_processes_migrate_at_once(empty_dsn):
    command = [sys.executable, "-W", "error", "-c", MIGRATE, empty_dsn]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    said = [process.communicate(timeout=60)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0] * 6
    assert sorted(said) == ["0"] * 5 + [str(len(module._files()))]
