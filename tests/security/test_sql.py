"""What a person types as a filter is a value: it never becomes part of a statement."""

import asyncio

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.store.selection import Selection
from tests.database import connected

PAYLOADS = (
    *("' OR '1'='1", "'; DROP TABLE agent_telemetry; --", "x' UNION SELECT NULL --", "\\'; --"),
    *("$1", "$$; SELECT 1; $$", "%", "_", "x\\", "NULL", "1; SELECT pg_sleep(5)", '"', "''", "{}"),
    *("x' || (SELECT current_user) || '", "\\copy agent_telemetry to '/tmp/x'", "é\u2028' --"),
)


def test_a_selection_puts_no_value_into_its_text():
    for payload in PAYLOADS:
        chosen = Selection(project=payload, session=payload, model=payload, errors=True, turns=True)
        text, values = chosen.where()
        plain, _ = Selection(project="p", session="s", model="m", errors=True, turns=True).where()
        assert text == plain
        assert values == [payload] * 3


@pytest.fixture
async def three_rows(dsn, monkeypatch):
    async with connected(dsn) as connection:
        await connection.executemany(
            "INSERT INTO agent_telemetry (project_id, session_id, model_used, system_prompt,"
            " chat_history, duration_ms) VALUES ($1, $2, $3, '', '[]', 1)",
            [(name, name, name) for name in ("plain", "another", PAYLOADS[0])],
        )
    monkeypatch.setenv("DATABASE_URL", dsn)
    return dsn


async def run(*arguments):
    return await asyncio.to_thread(CliRunner().invoke, main, list(arguments))


async def test_a_hostile_filter_selects_what_is_called_so(three_rows):
    for payload in PAYLOADS:
        for option in ("--project", "--session", "--model"):
            done = await run("tail", option, payload)
            assert done.exit_code == 0, (payload, done.output)
            rows = done.output.splitlines()
            assert len(rows) == (payload == PAYLOADS[0]), (payload, rows)
        for command in (["replay", payload], ["purge", "--session", f"{payload}!", "--yes"]):
            done = await run(*command)
            assert done.exit_code in (0, 1, 2), (command, done.output)
            assert "syntax error" not in done.output
    async with connected(three_rows) as connection:
        assert await connection.fetchval("SELECT count(*) FROM agent_telemetry") == 3
