"""Whatever stands in names, errors and texts: one line each, and nothing a terminal would obey."""

import asyncio
import io
import json
import logging
import uuid

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.cli_read import REPORT_NAMES
from proxy.config import Log
from proxy.log import configure, event, logger
from tests.database import connected
from tests.security.hostile import strings, unsafe_in

CORPUS = strings()


def logged(settings, *, write):
    stream = io.StringIO()
    listener = configure(settings, stream)
    for text in CORPUS:
        write(text)
    listener.stop()
    return stream.getvalue().split("\n")[:-1]


WAYS = {
    "a field": lambda text: event("call", logging.INFO, model=text),
    "a list": lambda text: event("call", logging.INFO, names=[text, {text: text}]),
    "an object": lambda text: event("call", logging.INFO, error=ValueError(text)),
    "a message": lambda text: logger.info(text),
    "an argument": lambda text: logger.info("forwarding %s", text),
}


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("way", WAYS)
def test_each_event_is_one_line_whatever_it_holds(way, form):
    lines = logged(Log(format=form), write=WAYS[way])
    assert len(lines) == len(CORPUS)
    assert set().union(*map(unsafe_in, lines)) == set()
    if form == "json":
        levels = {json.loads(line)["level"] for line in lines}
        assert levels == {"info"}


# What a database can hold of them.
STORABLE = [t.replace("\0", "").encode("utf-8", "ignore").decode() for t in CORPUS[:400]]
COMMANDS = (
    *(["tail", "-n", "2000"], ["tail", "-n", "2000", "--json"], ["tail", "-n", "2000", "--turns"]),
    *(["replay", "SESSION"], ["replay", "SESSION", "--full"], ["replay", "SESSION", "--json"]),
    *(["report"], ["doctor"], *(["report", name] for name in REPORT_NAMES)),
)


@pytest.fixture
async def hostile_rows(dsn, monkeypatch):
    """Rows of one session with hostile text in every column that takes any."""
    session = f"s{STORABLE[0]}"[:200]
    async with connected(dsn) as connection:
        columns = await connection.fetch(
            "SELECT column_name AS name, data_type AS type FROM information_schema.columns"
            " WHERE table_name = 'agent_telemetry' AND data_type IN ('text', 'jsonb',"
            " 'character varying') AND column_name NOT IN ('session_id', 'record_type')"
        )
        names = [column["name"] for column in columns]
        places = ", ".join(f"${n}" for n in range(4, len(names) + 4))
        insert = (
            f"INSERT INTO agent_telemetry (id, session_id, record_type, duration_ms,"
            f" {', '.join(names)}) VALUES ($1, $2, $3, 5, {places})"
        )
        for number, text in enumerate(STORABLE):
            kind = "llm_call" if number % 4 else "turn_summary"
            values = [_value(column["name"], column["type"], text) for column in columns]
            await connection.execute(insert, uuid.uuid4(), session, kind, *values)
    monkeypatch.setenv("DATABASE_URL", dsn)
    return session


def _value(name, kind, text):
    if kind != "jsonb":
        return text[:200] if kind == "character varying" else text
    if name == "chat_history":
        return json.dumps([{"role": "user", "content": text}, {"role": text, text: text}])
    if name in ("tool_calls", "tool_results"):
        return json.dumps([{"id": text, "name": text, "arguments": {text: text}, "output": text}])
    return json.dumps({text: text, "problems": [text]})


async def test_no_command_prints_what_a_terminal_would_obey(hostile_rows):
    for command in COMMANDS:
        arguments = [hostile_rows if part == "SESSION" else part for part in command]
        done = await asyncio.to_thread(CliRunner().invoke, main, arguments)
        assert done.exit_code in (0, 1), (command, done.output[:300])
        lines = done.output.split("\n")
        assert set().union(*map(unsafe_in, lines)) == set(), command
        if command[0] == "tail":
            wanted = sum(1 for n in range(len(STORABLE)) if n % 4 == 0 or "--turns" not in command)
            assert len(lines) - 1 == wanted, command
