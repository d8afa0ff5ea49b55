"""What is added up by time is what the rows say, at every moment and whoever changed a row."""

import asyncio
import itertools
import random
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Store as StoreSettings
from proxy.errors import StoreMisconfigured
from proxy.retention import Retention
from proxy.rollup import Rollup
from proxy.store import rollup
from proxy.store.migrate import migrate
from proxy.store.purge import Scope, purge
from proxy.store.rollup import EPOCH, EVER, ROWS, WIDTHS_S, Part, cover, milliseconds, places
from tests.database import connected
from tests.store.rows import POISON, record
from tests.store.test_migrate import OLD_ROW, SEED

NOW = datetime(2026, 3, 4, 12, 34, 56, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
BASE = timedelta(minutes=10)

# The same question asked of the rows alone.
TRUE = """
SELECT record_type, COALESCE(project_id, '') AS project_id, model_used,
    COALESCE(stop_reason, '') AS stop_reason, count(*) AS counted,
    count(*) FILTER (WHERE record_type = 'llm_call' AND outcome IS DISTINCT FROM 'complete')
        AS failed,
    count(*) FILTER (WHERE record_type <> 'llm_call' AND stop_reason <> 'completed' AND rounds < 3)
        AS early,
    sum(prompt_tokens) AS prompt_tokens, sum(cached_tokens) AS cached_tokens,
    sum(cost_usd) AS cost_usd, sum(rounds) AS rounds, count(rounds) AS rounds_known,
    count(duration_ms) FILTER (WHERE outcome = 'complete' OR record_type <> 'llm_call') AS took,
    count(ttft_ms) FILTER (WHERE outcome = 'complete') AS first
FROM agent_telemetry WHERE created_at >= $1 GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
SUMMED = """
SELECT record_type, project_id, model_used, stop_reason, sum(counted) AS counted,
    sum(failed) AS failed, sum(early) AS early, sum(prompt_tokens) AS prompt_tokens,
    sum(cached_tokens) AS cached_tokens, sum(cost_usd) AS cost_usd, sum(rounds) AS rounds,
    sum(rounds_known) AS rounds_known,
    sum((SELECT COALESCE(sum(n), 0) FROM unnest(took_counts) n)) AS took,
    sum((SELECT COALESCE(sum(n), 0) FROM unnest(first_counts) n)) AS first
FROM agent_summed($1, $2, $3, 600) GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""


async def stale(connection):
    return [row["at"] for row in await connection.fetch(rollup.STALE)]


async def assert_exact(connection, since=NOW - timedelta(days=40), now=NOW):
    """By every choice of widths, and from every beginning, what the rows say."""
    async with connection.transaction(isolation="repeatable_read"):
        noted = await stale(connection)
        for begin in (since, since + timedelta(hours=7, seconds=11), now - timedelta(minutes=25)):
            expected = [dict(row) for row in await connection.fetch(TRUE, begin)]
            for widths in (WIDTHS_S, (3600, 600), (600,), ()):
                parts = places(cover(begin, now, noted, widths))
                found = [dict(row) for row in await connection.fetch(SUMMED, *parts)]
                assert found == expected, (begin, widths)


def call(chance, **values):
    at = NOW - timedelta(seconds=chance.choice((9e3, 9e4, 9e5, 3e6)) * chance.random())
    usual = {
        "created_at": at,
        "project_id": chance.choice((None, "shop", "bank")),
        "model_used": chance.choice(("model-1", "model-2")),
        "outcome": chance.choice(("complete", "complete", "upstream_error", None)),
        "duration_ms": chance.randrange(100_000),
        "ttft_ms": chance.choice((None, 0, chance.randrange(5000))),
        "prompt_tokens": chance.choice((None, chance.randrange(100_000))),
        "cached_tokens": chance.choice((None, 10)),
        "cost_usd": chance.choice((None, Decimal("0.0001") * chance.randrange(900))),
    }
    return record(**{**usual, **values})


def turn(chance):
    return call(
        chance,
        record_type="turn_summary",
        outcome=None,
        ttft_ms=None,
        stop_reason=chance.choice(("completed", "abandoned", None)),
        rounds=chance.choice((None, 1, 2, 3, 9)),
        tool_call_count=chance.choice((None, 0, 5)),
    )


async def change(chance, connection, store, dsn):
    """One of the ways in which rows come, change and go."""
    rows = [turn(chance) if chance.random() < 0.3 else call(chance) for _ in range(20)]
    kind = chance.randrange(7)
    any_row = "(SELECT id FROM agent_telemetry ORDER BY md5(id::text || $1) LIMIT 5)"
    seed = str(chance.random())
    if kind < 2:
        await store.write(rows)
    elif kind == 2:  # a crash that is replaced by the true outcome
        crashed = [replace(row, outcome="proxy_crashed") for row in rows]
        await store.write(crashed)
        await store.write(rows)
    elif kind == 3:
        await connection.execute(
            f"UPDATE agent_telemetry SET prompt_tokens = 7, cost_usd = 1 WHERE id IN {any_row}",
            seed,
        )
    elif kind == 4:  # a row that moves in time
        await connection.execute(
            "UPDATE agent_telemetry SET created_at = created_at - INTERVAL '5 hours'"
            f" WHERE id IN {any_row}",
            seed,
        )
    elif kind == 5:
        await connection.execute(f"DELETE FROM agent_telemetry WHERE id IN {any_row}", seed)
    else:
        await purge(dsn, Scope(NOW - timedelta(days=chance.randrange(20, 40))), lambda rows: None)


@pytest.mark.parametrize("seed", range(4))
async def test_the_sums_are_those_of_the_rows_whatever_happens(connection, store, dsn, seed):
    chance = random.Random(seed)
    sums = Rollup(dsn)
    for _ in range(12):
        await change(chance, connection, store, dsn)
        await assert_exact(connection)
        if chance.random() < 0.6:
            await sums.round(NOW)
            await assert_exact(connection)
    await sums.round(LATER)
    assert await stale(connection) == []
    await assert_exact(connection, now=LATER)


async def test_a_row_that_is_committed_while_its_time_is_added_up_is_not_forgotten(
    connection, store, dsn
):
    at = NOW - timedelta(hours=3)
    await store.write([record(created_at=at)])
    writing = connection.transaction()
    await writing.start()
    await connection.execute(
        "INSERT INTO agent_telemetry (created_at, model_used, system_prompt, chat_history,"
        " duration_ms) VALUES ($1, 'late', '', '[]', 1)",
        at,
    )
    assert await Rollup(dsn).round(NOW) == 1  # it waits for nobody
    await writing.commit()
    assert len(await stale(connection)) == 1
    await assert_exact(connection)
    assert await Rollup(dsn).round(NOW) == 1
    assert await stale(connection) == []
    await assert_exact(connection)


async def test_several_recorders_add_up_once(connection, store, dsn):
    await store.write([record(created_at=NOW - timedelta(hours=n)) for n in range(100)])
    await asyncio.gather(*(Rollup(dsn).round(LATER) for _ in range(4)))
    await Rollup(dsn).round(LATER)
    await assert_exact(connection)
    assert (
        await connection.fetchval("SELECT sum(counted) FROM agent_rollup WHERE width_s = 600")
        == 100
    )


async def test_what_is_not_over_yet_stays_noted_once(connection, store, dsn):
    for _ in range(5):
        await store.write([record(created_at=NOW)])
    assert await Rollup(dsn).round(NOW) == 0
    assert await connection.fetchval("SELECT count(*) FROM agent_rollup_stale") == 1
    await assert_exact(connection)


async def test_a_table_that_is_taken_over_is_added_up(empty_dsn):
    async with connected(empty_dsn) as connection:
        await connection.execute(SEED)
        for days in (0, 0, 3, 400):
            await connection.execute(OLD_ROW)
            await connection.execute(
                "UPDATE agent_telemetry SET created_at = now() - make_interval(days => $1)"
                " WHERE created_at > now() - INTERVAL '1 hour'",
                days,
            )
        await connection.execute(OLD_ROW)
        await connection.execute(
            "UPDATE agent_telemetry SET created_at = NULL WHERE ctid = '(0,1)'"
        )
        await migrate(empty_dsn)
        now = datetime.now(UTC)
        assert await stale(connection)
        await assert_exact(connection, now - timedelta(days=800), now)
        await Rollup(empty_dsn).round(now + timedelta(days=1))
        assert await stale(connection) == []
        await assert_exact(connection, now - timedelta(days=800), now)


async def test_no_row_that_can_be_stored_stops_a_writer_or_the_sums(connection, store, dsn):
    await store.write([record(**values) for values in POISON])
    await connection.execute(
        "UPDATE agent_telemetry SET created_at = 'infinity' WHERE ctid = '(0,1)'"
    )
    await connection.execute(
        "UPDATE agent_telemetry SET created_at = '-infinity' WHERE ctid = '(0,2)'"
    )
    await connection.execute("UPDATE agent_telemetry SET created_at = NULL WHERE ctid = '(0,3)'")
    await Rollup(dsn).round(datetime.now(UTC) + timedelta(days=1))
    assert await stale(connection) == []


@pytest.mark.parametrize(
    "dropped", [["agent_rollup_stale"], ["agent_rollup"], ["agent_rollup", "agent_rollup_stale"]]
)
async def test_a_table_that_is_dropped_stops_nobody_and_is_made_anew(
    connection, store, dsn, dropped
):
    """Recording goes on, by this program and by others; the next migration adds up what came."""
    await store.write([record(created_at=NOW - timedelta(days=n)) for n in range(5)])
    await Rollup(dsn).round(NOW)
    await connection.execute(f"DROP TABLE {', '.join(dropped)} CASCADE")
    written = await store.write([record(created_at=NOW - timedelta(days=n)) for n in range(5)])
    assert written.written == 5
    await connection.execute("UPDATE agent_telemetry SET prompt_tokens = 3, rounds = 1")
    await connection.execute(
        "DELETE FROM agent_telemetry WHERE id = (SELECT id FROM agent_telemetry LIMIT 1)"
    )
    with pytest.raises(StoreMisconfigured, match="missing: run `agent-telemetry migrate`"):
        await Rollup(dsn).round(NOW)
    assert await migrate(dsn)
    assert await migrate(dsn) == []
    await assert_exact(connection)
    await store.write([record(created_at=NOW - timedelta(days=1))])
    await assert_exact(connection)
    await Rollup(dsn).round(LATER)
    assert await stale(connection) == []
    await assert_exact(connection, now=LATER)
    added = "SELECT sum(counted) FROM agent_rollup WHERE width_s = 86400"
    assert await connection.fetchval(added) == 10


@pytest.mark.parametrize("dropped", ["agent_rollup_stale", "agent_rollup"])
async def test_the_table_can_be_emptied_without_its_sums(connection, store, dsn, dropped):
    await store.write([record(created_at=NOW - timedelta(days=1))])
    await Rollup(dsn).round(NOW)
    await connection.execute(f"DROP TABLE {dropped} CASCADE")
    await connection.execute("TRUNCATE agent_telemetry")
    await migrate(dsn)
    await assert_exact(connection)


async def test_a_table_of_ones_own_is_not_taken_for_one_that_is_dropped(connection, dsn):
    """What is done with the owner's rights is not done to a table of somebody else."""
    await connection.execute("DROP TABLE agent_rollup_stale, agent_rollup CASCADE")
    await connection.execute("CREATE TEMPORARY TABLE agent_rollup_stale (at TIMESTAMPTZ)")
    await connection.execute("CREATE TEMPORARY TABLE agent_rollup AS SELECT 1 AS n")
    await connection.execute(OLD_ROW)
    await connection.execute("TRUNCATE agent_telemetry")
    assert await connection.fetchval("SELECT count(*) FROM pg_temp.agent_rollup_stale") == 0
    assert await connection.fetchval("SELECT count(*) FROM pg_temp.agent_rollup") == 1


async def test_sums_that_were_dropped_before_an_update_are_made_anew(connection, dsn):
    """Of a version whose trigger failed without them."""
    await connection.execute("DELETE FROM agent_telemetry_migrations WHERE name > '0009'")
    await connection.execute("DROP TABLE agent_rollup_stale, agent_rollup CASCADE")
    assert (await migrate(dsn))[:2] == ["0009", "0010"]
    await connection.execute(OLD_ROW)
    assert len(await stale(connection)) == 1


async def test_steps_that_take_too_long_become_smaller(connection, store, dsn):
    await store.write([record(created_at=NOW - n * BASE) for n in range(2, 22)])
    await connection.execute(
        "CREATE OR REPLACE FUNCTION agent_bin(ms INTEGER) RETURNS SMALLINT LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(0.05); RETURN 5; END'"
    )
    assert await Rollup(dsn, statement_timeout_s=1).round(LATER) == 20
    assert await stale(connection) == []
    added = "SELECT sum(counted) FROM agent_rollup WHERE width_s = 86400"
    assert await connection.fetchval(added) == 20


async def test_whoever_may_write_rows_needs_no_other_right(connection, dsn):
    role = f"writer_{uuid4().hex}"
    await connection.execute(f"CREATE ROLE {role}")
    await connection.execute(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON agent_telemetry TO {role}; SET ROLE {role};"
        "SET search_path = pg_catalog"
    )
    # What such a role puts in the way has no effect.
    await connection.execute("CREATE TEMPORARY TABLE agent_rollup_stale (at TIMESTAMPTZ)")
    await connection.execute(
        "INSERT INTO public.agent_telemetry (created_at, model_used, system_prompt, chat_history,"
        " duration_ms) VALUES ($1, 'm', '', '[]', 1)",
        NOW,
    )
    await connection.execute("UPDATE public.agent_telemetry SET created_at = $1", LATER)
    assert await connection.fetchval("SELECT count(*) FROM pg_temp.agent_rollup_stale") == 0
    await connection.execute("RESET ROLE")
    noted = await connection.fetch("SELECT DISTINCT at FROM public.agent_rollup_stale ORDER BY 1")
    assert [row["at"] for row in noted] == [_begin(NOW), _begin(LATER)]
    await connection.execute("DISCARD TEMP")
    await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_nobody_else_can_have_the_sums_deleted(connection, store, dsn):
    """The function has its owner's rights: no table but the one it is made for may use it."""
    await store.write([record(created_at=NOW - timedelta(days=2))])
    await Rollup(dsn).round(NOW)
    role = f"stranger_{uuid4().hex}"
    await connection.execute(f"CREATE ROLE {role}")
    await connection.execute(f"SET ROLE {role}")
    await connection.execute("CREATE TEMPORARY TABLE own (n INTEGER)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(
            "CREATE TRIGGER emptied AFTER TRUNCATE ON own FOR EACH STATEMENT"
            " EXECUTE FUNCTION public.agent_rollup_note(); TRUNCATE own"
        )
    await connection.execute("RESET ROLE; DISCARD TEMP")
    await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert await connection.fetchval("SELECT count(*) FROM agent_rollup") == len(WIDTHS_S)


async def test_where_all_tables_are_published_sums_are_made_and_the_table_can_be_emptied(
    connection, store, dsn
):
    """A publication refuses to delete from a table that has nothing to tell its rows by."""
    await store.write([record(created_at=NOW - timedelta(days=2))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", asyncpg.InterfaceWarning)
        await connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    await Rollup(dsn).round(NOW)
    await store.write([record(created_at=NOW - timedelta(days=2))])
    await Rollup(dsn).round(NOW)
    await assert_exact(connection)
    await connection.execute("TRUNCATE agent_telemetry")
    await assert_exact(connection)


async def test_whoever_empties_the_table_and_the_sums_wait_for_each_other(connection, store, dsn):
    """In the order in which both take their locks, so that neither is ended by a deadlock."""
    at = NOW - timedelta(days=2)
    await store.write([record(created_at=at)])
    await Rollup(dsn).round(NOW)
    await store.write([record(created_at=at)])  # so that the sums are to be replaced
    async with connected(dsn) as other:
        reading = connection.transaction()
        await reading.start()
        await connection.fetch("SELECT FROM agent_telemetry")
        emptying = asyncio.create_task(other.execute("TRUNCATE agent_telemetry"))
        await waiting(connection, 1)
        adding = asyncio.create_task(Rollup(dsn).round(NOW))
        await waiting(connection, 2)
        await reading.commit()
        await asyncio.gather(emptying, adding)
    await Rollup(dsn).round(NOW)
    await assert_exact(connection)


async def waiting(connection, number):
    """Wait until so many statements wait for the table."""
    asked = (
        "SELECT count(*) FROM pg_locks WHERE relation = 'agent_telemetry'::regclass"
        " AND NOT granted AND database = (SELECT oid FROM pg_database"
        " WHERE datname = current_database())"
    )
    async with asyncio.timeout(30):
        while await connection.fetchval(asked) < number:
            await asyncio.sleep(0.01)


async def test_a_table_that_is_emptied_has_no_sums(connection, store, dsn):
    await store.write([record(created_at=NOW - timedelta(days=2))])
    await Rollup(dsn).round(NOW)
    await connection.execute("TRUNCATE agent_telemetry")
    await assert_exact(connection)


async def test_retention_takes_the_sums_with_the_rows(connection, store, dsn):
    await store.write([record(created_at=NOW - timedelta(days=n)) for n in (1, 50, 60)])
    await Rollup(dsn).round(NOW)
    await Retention(dsn, StoreSettings(retention_days=30)).round(NOW)
    await Rollup(dsn).round(NOW)
    assert await connection.fetchval("SELECT count(*) FROM agent_rollup") == len(WIDTHS_S)
    await assert_exact(connection, NOW - timedelta(days=90))


async def test_everything_can_be_added_up_again(connection, store, dsn):
    await store.write([record(created_at=NOW - timedelta(days=n)) for n in range(3)])
    await Rollup(dsn).round(LATER)
    await connection.execute("UPDATE agent_rollup SET counted = 5")
    await connection.execute("DELETE FROM agent_rollup WHERE at < $1", NOW - timedelta(days=1))
    await connection.execute(rollup.AGAIN, NOW - timedelta(days=30))
    await assert_exact(connection)
    assert await Rollup(dsn).round(LATER) == 3
    await assert_exact(connection)


async def test_a_bin_is_as_near_to_its_values_as_is_said(connection):
    values = [*range(5000), *(int(1.01**n) for n in range(850, 2150)), 2**31 - 1]
    found = await connection.fetch(
        "SELECT ms, agent_bin(ms) AS bin FROM unnest($1::integer[]) AS v (ms)", values
    )
    for row in found:
        assert abs(milliseconds(row["bin"]) - row["ms"]) <= 0.022 * row["ms"] + 0.5, dict(row)
    assert milliseconds(None) is None


instants = st.datetimes(datetime(2026, 1, 1), datetime(2026, 3, 1)).map(
    lambda at: at.replace(tzinfo=UTC)
)


def _begin(at):
    return at - (at - EPOCH) % BASE


@given(instants, instants, st.lists(instants.map(_begin)), st.sampled_from([0, 1, 2, 3]))
def test_a_cover_is_the_whole_span_once_and_nothing_stale(since, now, noted, finest):
    """Parts follow on each other from the beginning on; what was added up is whole and current."""
    parts = cover(since, now, noted, WIDTHS_S[3 - finest :])
    assert parts[0].begin == since
    assert parts[-1].end == EVER
    for part, following in itertools.pairwise(parts):
        assert part.end == following.begin
    for part in parts:
        assert part.begin < part.end
        if part.width_s != ROWS:
            assert part.width_s in WIDTHS_S[3 - finest :]
            width = timedelta(seconds=part.width_s)
            assert (part.begin - EPOCH) % width == (part.end - EPOCH) % width == timedelta()
            assert not any(part.begin <= at < part.end for at in noted)
    if finest and not noted:
        assert sum(part.width_s == ROWS for part in parts) <= 2


def test_a_year_is_read_in_a_few_parts():
    noted = NOW - timedelta(days=100)
    parts = cover(NOW - timedelta(days=365), NOW, [_begin(noted)])
    midnight = NOW.replace(hour=0, minute=0, second=0)
    assert len(parts) < 20
    assert Part(86_400, midnight - timedelta(days=99), midnight) in parts
