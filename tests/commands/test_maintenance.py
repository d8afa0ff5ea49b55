"""What was set aside is tried again; what is kept raw is derived again."""

import json
import re

import pytest

from proxy.assemble import Assembler
from proxy.captured import packed
from proxy.decode.dispatch import DECODER_VERSION
from proxy.environment import load
from tests.pipeline.exchanges import chat

ASIDE = "sqlstate 23514"


CALLS = "SELECT * FROM agent_telemetry WHERE record_type = 'llm_call' ORDER BY user_message"


def rows(database, query=CALLS):
    return database(lambda store: store.fetch(query))


def set_aside(database, *exchanges):
    async def work(store):
        for exchange in exchanges:
            start = exchange.start
            await store.quarantine(start.id, start.started_at, ASIDE, packed(exchange))

    database(work)


def stored_with_raw(database, config, *exchanges):
    assembler = Assembler(config)

    async def work(store):
        found = [assembler.assembled(exchange) for exchange in exchanges]
        beside = {each.record.id: each.beside for each in found}
        await store.write([each.record for each in found], beside)

    database(work)


def test_what_was_set_aside_is_listed_by_reason(run, database):
    assert run("spool", "quarantine") == (0, "nothing is set aside\n")
    set_aside(database, chat("one"), chat("two"))
    code, text = run("spool", "quarantine")
    assert code == 0
    assert re.match(rf" +2  {ASIDE}  \d", text)
    (listed,) = json.loads(run("spool", "quarantine", "--json")[1])
    assert (listed["reason"], listed["calls"]) == (ASIDE, 2)


def test_resubmitted_calls_become_rows_and_leave_the_list(run, database):
    set_aside(database, chat("one"), chat("two"))
    assert run("spool", "quarantine", "--resubmit") == (0, "       2  stored\n")
    assert {row["user_message"] for row in rows(database)} == {"one", "two"}
    assert run("spool", "quarantine") == (0, "nothing is set aside\n")


def test_what_is_refused_again_stays_on_the_list(run, database):
    database(
        lambda store: store.fetch("ALTER TABLE agent_telemetry ADD CHECK (user_message <> 'bad')")
    )
    set_aside(database, chat("bad"), chat("good"))
    code, text = run("spool", "quarantine", "--resubmit")
    assert (code, text) == (1, f"       1  stored\n       1  refused again: {ASIDE}\n")
    assert "       1  sqlstate 23514" in run("spool", "quarantine")[1]


def test_a_copy_that_cannot_be_read_stays(run, database):
    exchange = chat("one")
    start = exchange.start
    database(lambda store: store.quarantine(start.id, start.started_at, ASIDE, b"no exchange"))
    code, text = run("spool", "quarantine", "--resubmit")
    assert code == 1
    assert "is no exchange" in text


@pytest.fixture
def keeping(run, monkeypatch):
    """The configuration under which raw exchanges are kept."""
    monkeypatch.setenv("AGENT_TELEMETRY__CAPTURE__RAW", "all")
    return load()


def test_rows_are_derived_again_from_their_raw_exchange(run, database, keeping):
    stored_with_raw(database, keeping, chat("one"), chat("two"))
    code, text = run("recompute")
    assert (code, text.splitlines()[0]) == (0, "2 calls derived again, 0 of them changed")
    database(
        lambda store: store.fetch(
            "UPDATE agent_telemetry SET response_text = 'an older decoder', total_tokens = 0,"
            " session_id = 'inferred', round = 3,"
            ' capture = capture || \'{"session_source": "inferred", "of_linker": 1, "decoder": 1}\''
            " WHERE user_message = 'one'"
        )
    )
    expected = {"rows": 2, "changed": 1, "outdated": 1, "unreadable": 0}
    expected["columns"] = {"response_text": 1, "total_tokens": 1, "capture": 1}
    assert json.loads(run("recompute", "--json")[1])["calls"] == expected
    one, _ = rows(database)
    assert (one["response_text"], one["total_tokens"]) == ("answer to one", 10)
    # What the linker had found is kept by the first step, and judged again by the second.
    assert (one["session_id"], one["round"]) == (str(one["id"]), 1)
    assert one["capture"]["of_linker"] == 1
    assert one["capture"]["decoder"] == DECODER_VERSION
    assert run("recompute")[1].startswith("2 calls derived again, 0 of them changed\n")


def test_only_calls_since_an_instant_are_derived_again(run, database, keeping):
    stored_with_raw(database, keeping, chat("one"))
    assert run("recompute", "--since", "1h")[1].startswith("0 calls derived again, 0 of them")
    assert run("recompute", "--since", "2020-01-01")[1].startswith("1 calls")
    assert run("recompute", "--since", "yesterday")[0] == 2


def test_an_empty_spool_is_good(run):
    assert run("spool", "verify") == (0, "good\n")
