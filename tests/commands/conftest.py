"""What the tests of commands share: a command runner and the database it works on."""

import asyncio

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.store.postgres import Store


@pytest.fixture
def run(dsn, tmp_path, monkeypatch):
    """Runs a command against the test's database; returns exit code and what it printed."""
    monkeypatch.setenv("AGENT_TELEMETRY__DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", dsn)

    def command(*arguments):
        done = CliRunner().invoke(main, arguments)
        return done.exit_code, done.stdout

    return command


@pytest.fixture
def database(dsn):
    """Runs `work(store)` on the test's database."""

    def use(work):
        async def used():
            async with Store(dsn) as store:
                return await work(store)

        return asyncio.run(used())

    return use
