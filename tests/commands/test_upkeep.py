"""Purge takes all and nothing more, copy brings everything, the doctor sees what is wrong."""

import asyncio
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from proxy import config
from proxy.enrich.facts import link_of
from proxy.linker import Linker
from proxy.record import Beside, Blob
from proxy.report import TurnReport
from proxy.retention import Retention
from proxy.spool import slot
from proxy.spool.page import Page
from proxy.spool.totals import Captured, Loss
from proxy.store.links import LinkStore
from proxy.store.postgres import Store
from proxy.store.reported import write_report
from proxy.store.transfer import LOCK, transfer
from tests.commands.test_maintenance import set_aside
from tests.database import connected
from tests.pipeline.exchanges import chat
from tests.store.rows import NOW, record
from tests.turns.scripts import DIGESTS, LATER
from tests.turns.test_linker import CONFIG, conversations

TABLES = (
    *("agent_telemetry", "agent_links", "agent_link_keys", "agent_blobs", "agent_raw"),
    *("agent_feedback", "agent_reports"),
)
SHARED, OWN = (
    Blob(hashlib.sha256(content).hexdigest(), "image/png", content) for content in (b"a", b"b")
)


def stored(database, *records, blobs=(), raw=None):
    async def work(store):
        listed = {"blobs": [blob.sha256 for blob in blobs]} if blobs else {}
        beside = Beside(tuple(blobs), raw)
        rows = [record(**row, capture=listed) for row in records]
        await store.write(
            rows, {row.id: Beside(beside.blobs, raw, link_of(row, DIGESTS)) for row in rows}
        )
        return rows

    return database(work)


def feedback(database, **values):
    columns = {"id": uuid4(), "name": "thumbs", "value": "up", **values}
    names, places = ", ".join(columns), ", ".join(f"${n + 1}" for n in range(len(columns)))
    query = f"INSERT INTO agent_feedback ({names}) VALUES ({places})"
    database(lambda store: store.fetch(query, *columns.values()))


def reported(database, session, project):
    said = TurnReport(session_id=session, project_id=project, stop_reason="done")
    database(lambda store: write_report(store, uuid4(), NOW, said))


def counts(database):
    query = " UNION ALL ".join(
        f"SELECT '{name}' AS name, count(*) AS n FROM {name}" for name in TABLES
    )
    return {row["name"]: row["n"] for row in database(lambda store: store.fetch(query))}


@pytest.fixture
def filled(database):
    """Two sessions of one project and one of another, with everything beside them."""
    for session, project, blobs in (
        ("s", "shop", (SHARED, OWN)),
        ("t", "shop", (SHARED,)),
        ("s", "other", ()),
    ):
        (row,) = stored(
            database, {"session_id": session, "project_id": project}, blobs=blobs, raw=b"raw"
        )
        feedback(database, call_id=row.id)
        feedback(database, session_id=session, project_id=project)
        reported(database, session, project)
    reported(database, "never called", "shop")
    feedback(database, session_id="never called", project_id="shop")


def test_purge_takes_a_session_of_a_project_and_all_beside_it(run, database, filled):
    code, text = run("purge", "--session", "s", "--project", "shop", "--yes")
    assert code == 0
    assert text.startswith("1 calls and 0 turns of 1 conversations, 2026-03-01 12:00 to ")
    assert text.endswith("deleted 1 rows, 1 raw exchanges, 3 feedback, 1 media\n")
    left = counts(database)
    assert (left["agent_telemetry"], left["agent_links"], left["agent_raw"]) == (2, 2, 2)
    assert (left["agent_feedback"], left["agent_reports"], left["agent_blobs"]) == (5, 3, 1)
    kept = database(lambda store: store.fetch("SELECT content FROM agent_blobs"))
    assert kept == [{"content": b"a"}]


def test_purge_of_a_project_leaves_nothing_of_it(run, database, filled):
    assert run("purge", "--project", "shop", "--yes")[0] == 0
    left = counts(database)
    assert (left["agent_telemetry"], left["agent_feedback"], left["agent_blobs"]) == (1, 2, 0)
    assert left["agent_reports"] == 1


def test_purge_by_age_takes_what_never_became_a_row_too(run, database, filled):
    stored(database, {"session_id": "new", "created_at": datetime.now(UTC)}, raw=b"raw")
    set_aside(database, chat("refused long ago"))
    code, text = run("purge", "--before", "1d", "--yes", "--json")
    assert (code, json.loads(text)["raw"]) == (0, 4)
    left = counts(database)
    assert (left["agent_telemetry"], left["agent_raw"], left["agent_blobs"]) == (1, 1, 0)


def test_purge_asks_and_wants_to_know_what(run, database, filled):
    assert run("purge")[0] == 2
    before = counts(database)
    assert run("purge", "--session", "s")[0] == 2  # nobody to ask
    assert counts(database) == before


def test_purge_goes_on_over_many_batches(run, database):
    many = [
        {"session_id": "s", "created_at": NOW + timedelta(seconds=n // 400)} for n in range(1201)
    ]
    stored(database, *many)
    assert "deleted 1201 rows" in run("purge", "--session", "s", "--yes")[1]
    assert counts(database)["agent_links"] == 0


def test_purge_leaves_a_medium_that_a_writer_is_about_to_refer_to(run, database, filled, dsn):
    async def meanwhile():
        async with connected(dsn) as writer:
            key = bytes.fromhex(OWN.sha256)
            async with writer.transaction():
                await writer.fetch("SELECT FROM agent_blobs WHERE sha256 = $1 FOR KEY SHARE", key)
                await asyncio.to_thread(run, "purge", "--project", "shop", "--yes")
                assert await writer.fetchval("SELECT count(*) FROM agent_blobs") == 1

    asyncio.run(meanwhile())


def contents(dsn, names=(*TABLES, "agent_secrets")):
    """Every row of every table as text, in an order of its own."""

    async def read():
        async with connected(dsn, server_settings={"timezone": "UTC"}) as connection:
            return {
                name: sorted(
                    row["row"]
                    for row in await connection.fetch(f"SELECT {name}::text AS row FROM {name}")
                )
                for name in names
            }

    return asyncio.run(read())


@pytest.fixture
def linked(database, filled, dsn):
    """Conversations with links and turns, beside what `filled` holds."""
    for talk in conversations():
        stored_talk(database, talk)

    async def link():
        async with LinkStore(dsn) as links:
            await Linker(CONFIG, links, None).settle(LATER)

    asyncio.run(link())


def stored_talk(database, talk):
    beside = {row.id: Beside(link=link_of(row, DIGESTS)) for row in talk.records}
    database(lambda store: store.write(talk.records, beside))


def test_copy_brings_every_row_of_every_table(run, linked, dsn, other_dsn):
    code, text = run("copy", "--to", other_dsn)
    assert code == 0, text
    assert text.endswith("all rows are there\n")
    assert contents(other_dsn) == contents(dsn)
    assert min(map(len, contents(dsn).values())) > 0


def test_copy_done_again_writes_only_what_is_new(run, linked, database, dsn, other_dsn):
    run("copy", "--to", other_dsn)
    assert {
        table["written"] for table in json.loads(run("copy", "--to", other_dsn, "--json")[1])
    } == {0}
    database(
        lambda store: store.fetch(
            "UPDATE agent_telemetry SET response_text = 'x'"
            " WHERE capture ? 'blobs' AND session_id = 't'"
        )
    )
    stored(database, {"session_id": "late"})
    again = json.loads(run("copy", "--to", other_dsn, "--json")[1])
    written = {table["table"]: table["written"] for table in again}
    assert (written["agent_telemetry"], written["agent_links"], written["agent_blobs"]) == (2, 1, 0)
    assert contents(other_dsn) == contents(dsn)


def test_a_copy_holds_no_lock_once_it_is_done(run, filled, dsn, other_dsn):
    """Else the next one is refused where the server is slow to see that its connection ended."""
    run("copy", "--to", other_dsn)

    async def held():
        async with connected(other_dsn) as watch:
            await transfer(dsn, other_dsn, lambda rows: lambda done: None)
            return await watch.fetchval(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
                LOCK,
            )

    assert [asyncio.run(held()) for _ in range(10)] == [0] * 10


SHARING = config.Store(history="shared", partitions=True)
OF_SHARED = ("agent_messages", "agent_chains", "agent_contexts")


async def shared_rows(dsn):
    """Conversations that share, of today, in tables of their own, and of long ago."""
    await Retention(dsn, SHARING).round(datetime.now(UTC))
    async with Store(dsn, SHARING) as store:
        rows = [
            replace(row, created_at=row.created_at if n % 2 else datetime.now(UTC))
            for n, row in enumerate(row for talk in conversations() for row in talk.records)
        ]
        await store.write(rows)


def test_copy_brings_what_rows_share(run, dsn, other_dsn):
    asyncio.run(shared_rows(dsn))
    code, text = run("copy", "--to", other_dsn)
    assert (code, text.endswith("all rows are there\n")) == (0, True), text
    names = (*TABLES, *OF_SHARED, "agent_telemetry_full")
    assert contents(other_dsn, names) == contents(dsn, names)
    assert {
        table["written"] for table in json.loads(run("copy", "--to", other_dsn, "--json")[1])
    } == {0}
    assert contents(other_dsn, ["agent_contexts"])["agent_contexts"]


def test_the_doctor_misses_a_history(run, database, dsn):
    asyncio.run(shared_rows(dsn))
    assert "lost histories" not in run("doctor", "--since", "2020-01-01")[1]
    database(lambda store: store.execute("DELETE FROM agent_messages"))
    assert "lost histories" in run("doctor", "--since", "2020-01-01")[1]


def test_a_database_is_not_copied_into_itself(run, filled, dsn):
    assert run("copy", "--to", dsn)[0] == 1


def test_a_destination_with_links_of_its_own_keeps_them(run, filled, other_dsn, dsn):
    asyncio.run(_other_conversation(other_dsn))
    tables = {t["table"]: t for t in json.loads(run("copy", "--to", other_dsn, "--json")[1])}
    assert tables["agent_links"]["is_skipped"]
    assert tables["agent_telemetry"]["after"] == 4


async def _other_conversation(dsn):
    row = record(session_id="here")
    async with Store(dsn) as store:
        await store.write([row], {row.id: Beside(link=link_of(row, DIGESTS))})
        await store.fetch("UPDATE agent_secrets SET value = 'a secret of its own'")


WRONG = {
    "empty answers": {"response_text": None, "status": 200, "completion_tokens": 7},
    "decoder problems": {"capture": {"problems": ["a stream of no kind"]}},
    "redaction failures": {"capture": {"problems": ["redaction failed: KeyError"]}},
    "cut bodies": {"capture": {"truncated": {"request": 1, "response": 0}}},
    "crashed gateways": {"outcome": "proxy_crashed"},
    "refused rows": {"capture": {"rejected": "22000"}},
}
RIGHT = [
    {"status": 200},
    {"response_text": None, "status": 200, "tool_calls": [{"name": "x"}]},
    {"response_text": None, "status": 200, "finish_reason": "length"},
    {"response_text": None, "status": 200, "capture": {"content": "metadata"}},
    {"response_text": None, "status": 500, "outcome": "upstream_error"},
]


def recent(**values):
    return record(created_at=datetime.now(UTC), client="agent/1.0", endpoint="messages", **values)


def test_the_doctor_finds_nothing_in_good_rows(run, database):
    rows = [recent(**values) for values in RIGHT]
    database(lambda store: store.write(rows))
    assert run("doctor") == (0, "nothing is silently wrong\n")
    assert run("doctor", "--json") == (0, "[]\n")


@pytest.mark.parametrize("name", WRONG)
def test_the_doctor_names_what_is_wrong_and_where(run, database, name):
    rows = [recent(**WRONG[name]), recent()]
    database(lambda store: store.write(rows))
    code, text = run("doctor", "--json")
    (finding,) = json.loads(text)
    (detail,) = finding["details"]
    assert (code, finding["name"], finding["calls"]) == (1, name, 1)
    assert (detail["client"], detail["endpoint"]) == ("agent/1.0", "messages")
    assert detail["latest"] == str(rows[0].id)
    assert name in run("doctor")[1]


def test_the_doctor_asks_about_a_time(run, database):
    old = record(**WRONG["cut bodies"], created_at=NOW)
    database(lambda store: store.write([old]))
    assert run("doctor")[0] == 0
    assert run("doctor", "--since", "2026-01-01")[0] == 1


def test_the_doctor_sees_what_was_set_aside_or_not_linked(run, database):
    set_aside(database, chat("refused"))
    stored(database, {"session_id": "s", "created_at": datetime.now(UTC) - timedelta(hours=1)})
    names = [
        finding["name"]
        for finding in json.loads(run("doctor", "--since", "2020-01-01", "--json")[1])
    ]
    assert names == ["exchanges set aside", "calls not linked"]


@pytest.mark.parametrize(
    "statement", ["DROP INDEX idx_agent_telemetry_stop", "DROP TABLE agent_telemetry_migrations"]
)
def test_the_doctor_misses_an_index_or_a_migration(run, database, statement):
    database(lambda store: store.fetch(statement))
    code, text = run("doctor")
    assert code == 1
    assert "agent-telemetry migrate" in text


def test_the_doctor_reports_a_database_that_is_away(run, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    code, text = run("doctor")
    assert code == 1
    assert text.startswith("database: ")


def test_the_doctor_looks_into_the_spool(run, tmp_path):
    folder = tmp_path / "spool" / "1"
    folder.mkdir(parents=True)
    page = Page(folder / slot.CAPTURED)
    page.write(Captured(lost={**Captured().lost, Loss.DISK_FULL: 3}).counters())
    page.close()
    (finding,) = json.loads(run("doctor", "--json")[1])
    assert (finding["name"], finding["calls"]) == ("lost calls", 3)
    assert finding["details"] == [{"calls": 3, "reason": "disk_full"}]
