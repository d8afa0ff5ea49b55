"""Several recorders that are killed at random come to what one undisturbed recorder comes to.

The calls are those that the frameworks of the laboratory sent, with labels and without, so that
hundreds of conversations overlap, many of them word for word alike.
"""

import os
import random
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from uuid import NAMESPACE_OID, uuid5

import pytest

from proxy.assemble import Assembler
from proxy.enrich.digests import Digests
from proxy.environment import load
from proxy.linker import Linker
from proxy.spool.writer import SpoolWriter
from proxy.store.links import LinkStore
from proxy.store.postgres import Store
from tests.agents import kept
from tests.database import connected
from tests.e2e.stack import ROOT, until
from tests.turns.recorded import exchange_of
from tests.turns.scripts import Talk
from tests.turns.test_linker import fetch, linked

APART_NS = 23_000_000  # between the beginnings of two conversations
RECORDERS, KILLS = 4, 8
ROWS = """
SELECT id, record_type, created_at, session_id, turn_id, round, parent_id, project_id, user_message,
    stop_reason, rounds, tool_call_count, turn_intent, tool_calls, tool_results, response_text,
    prompt_tokens, completion_tokens, duration_ms, outcome, labels, capture
FROM agent_telemetry ORDER BY id
"""
PROGRESS = """
SELECT count(*) AS known, count(*) FILTER (WHERE placement IS NOT NULL) AS placed,
    bool_or(is_pending OR due_at IS NOT NULL) AS is_behind
FROM agent_links
"""


def exchanges():
    """All calls of all conversations in order of arrival, the conversations overlapping."""
    found = []
    for is_bare in (True, False):
        for number, scenario in enumerate(kept.recorded(is_bare=is_bare)):
            for record in scenario.records:
                whole = exchange_of(record, 0, is_bare=is_bare)
                start = replace(
                    whole.start,
                    id=uuid5(NAMESPACE_OID, f"{record['id']} {is_bare}"),
                    at_ns=whole.start.at_ns + number * APART_NS,
                )
                found.append(
                    replace(
                        whole,
                        start=start,
                        request=_with_own_ids(whole.request, is_bare),
                        response=tuple(
                            replace(piece, data=_with_own_ids(piece.data, is_bare))
                            for piece in whole.response
                        ),
                    )
                )
    return sorted(found, key=lambda exchange: (exchange.start.at_ns, exchange.start.id))


def _with_own_ids(body, is_bare):
    """No provider gives one id to calls of two conversations."""
    return re.sub(rb"call_(?=[0-9a-f]{16}_)", b"call_bare_" if is_bare else b"call_", body)


def spool(directories, calls):
    """Hand the calls round to the spools of these directories."""
    writers = [SpoolWriter(each / "spool", max_bytes=2**30) for each in directories]
    for number, exchange in enumerate(calls):
        writer, id = writers[number % len(writers)], exchange.start.id
        assert writer.start(exchange.start)
        assert writer.request(id, 1, exchange.request)
        assert writer.head(id, exchange.head)
        for piece in exchange.response:
            assert writer.response(id, piece.at_us, piece.data)
        assert writer.end(id, exchange.end)
    for writer in writers:
        writer.close()


@contextmanager
def recorders(directories, dsn):
    """One recorder process for each directory, as a list in which they may be replaced."""
    running = [started(directory, dsn) for directory in directories]
    try:
        yield running
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(30)


def started(directory, dsn):
    settings = {"DATA_DIR": str(directory), "STORE__DSN": dsn, "STORE__BATCH_ROWS": "20"}
    with open(directory / "log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "proxy", "recorder"],
            cwd=ROOT,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("AGENT_TEL")},
                **{f"AGENT_TELEMETRY__{name}": value for name, value in settings.items()},
            },
            stdout=log,
            stderr=log,
        )


async def recorded(dsn, directories, calls, chance=None):
    """The rows once everything is stored, linked and ended; with `chance`, after so many kills."""
    for directory in directories:
        directory.mkdir()
    spool(directories, calls)
    async with connected(dsn) as connection:

        async def reached(count: int, column: str) -> bool:
            return (await connection.fetchrow(PROGRESS))[column] >= count

        async def is_done() -> bool:
            progress = await connection.fetchrow(PROGRESS)
            return progress["placed"] == len(calls) and not progress["is_behind"]

        with recorders(directories, dsn) as running:
            for number in range(KILLS if chance else 0):
                count = len(calls) * (number + 1) // (KILLS + 2)
                column = chance.choice(["known", "placed"])
                await until(lambda: reached(count, column), f"{count} calls are {column}")  # noqa: B023
                victim = chance.randrange(len(running))
                running[victim].kill()
                running[victim].wait()
                running[victim] = started(directories[victim], dsn)
            await until(is_done, "all calls are placed and all turns have ended", 120)
    return await fetch(dsn, ROWS)


def differences(rows, others):
    """Columns that differ, by row."""
    found = {row["id"]: row for row in others}
    return [
        (str(row["id"]), name, value, found.get(row["id"], {}).get(name))
        for row in rows
        for name, value in row.items()
        if found.get(row["id"], {}).get(name) != value
    ]


async def test_calls_committed_in_any_order_come_to_the_same(dsn, other_dsn):
    """What kills can do to linking is to change orders, batches, steps: here without processes."""
    assembler = Assembler(load(None, {"HOME": "/"}), Digests(b"secret"))
    calls = [assembler.assembled(exchange) for exchange in exchanges()]
    chance = random.Random(1)
    in_order = await committed(dsn, calls, random.Random(0))
    late = sorted(range(len(calls)), key=lambda place: place + chance.gauss(0, 160))
    others = await committed(other_dsn, [calls[place] for place in late], chance)
    assert differences(in_order, others) == differences(others, in_order) == []


async def committed(dsn, calls, chance):
    """The rows of calls that are written and linked in batches and steps of any size."""
    left = list(calls)
    async with Store(dsn) as store, LinkStore(dsn) as links:
        linker = Linker(load(None, {"HOME": "/"}), links, None)
        while left:
            size = chance.choice([1, 3, 20, 60, 200])
            batch, left = left[:size], left[size:]
            await store.write(
                [each.record for each in batch], {each.record.id: each.beside for each in batch}
            )
            for _ in range(chance.choice([0, 1, 2])):
                await linker.step(datetime.now(UTC), chance.choice([5, 50, 500]))
        await linker.settle(datetime.now(UTC))
    return await fetch(dsn, ROWS)


async def test_recorders_killed_at_random_give_what_one_gives(tmp_path, dsn, other_dsn):
    calls = exchanges()
    one = await recorded(dsn, [tmp_path / "alone"], calls)
    several = [tmp_path / f"recorder{number}" for number in range(RECORDERS)]
    many = await recorded(other_dsn, several, calls, random.Random(0))
    assert sum(row["record_type"] == "llm_call" for row in one) == len(calls)
    assert len({row["session_id"] for row in one}) >= 200
    assert differences(one, many) == []


@pytest.mark.parametrize("has_ids", [True, False], ids=["tool call ids", "no ids"])
async def test_ten_conversations_with_the_same_opening_words_stay_ten(dsn, has_ids):
    chance = random.Random(1)
    talks = [Talk(has_ids=has_ids).wait(number / 50) for number in range(10)]
    for number, talk in enumerate(talks):
        talk.user("hello").call("hm", [("read", {"p": number})]).results("ok").call(f"hi {number}")
        talk.wait(chance.random()).user("and then?").call("nothing more")
    records = [record for talk in talks for record in talk.records]
    chance.shuffle(records)
    calls, summaries = await linked(dsn, records, chance)
    sessions = {row["id"]: row["session_id"] for row in calls}
    for talk in talks:
        assert {sessions[record.id] for record in talk.records} == {str(talk.records[0].id)}
    assert len(set(sessions.values())) == 10
    assert [row["stop_reason"] for row in summaries] == ["completed"] * 20
