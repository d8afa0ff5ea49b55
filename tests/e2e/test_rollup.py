"""A running recorder adds up by time what it finds."""

from datetime import UTC, datetime, timedelta

from tests.e2e.stack import Stack, until
from tests.store.rows import record


async def test_a_recorder_adds_up_what_was_there_before_it(tmp_path, dsn, store):
    await store.write([record(created_at=datetime.now(UTC) - timedelta(days=1))])

    async def is_added_up() -> bool:
        (row,) = await store.fetch("SELECT count(*) AS n FROM agent_rollup WHERE width_s = 86400")
        return row["n"] == 1

    async with Stack(tmp_path, "http://127.0.0.1:1", STORE__DSN=dsn):
        await until(is_added_up, "the day is added up", 60)
