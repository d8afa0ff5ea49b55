"""Every command that reads prints the same, whichever way histories are stored."""

import asyncio

import pytest
from click.testing import CliRunner

from proxy import config
from proxy.cli import main
from proxy.enrich.facts import link_of
from proxy.linker import Linker
from proxy.record import Beside
from proxy.store.links import LinkStore
from proxy.store.postgres import Store
from tests.turns.scripts import DIGESTS, LATER
from tests.turns.test_linker import CONFIG, conversations

HISTORIES = ("full", "shared")
COMMANDS = [
    ("tail", "--lines", "100", "--json"),
    ("tail", "--turns", "--json"),
    ("replay", "s", "--json"),
    ("replay", "s", "--full"),
    ("report", "--since", "2020-01-01", "--json"),
    ("doctor", "--since", "2020-01-01", "--json"),
    ("recompute", "--json"),
    *(
        ("export", "--format", format, "--out", "OUT", "--stop-reason", "any")
        for format in ("openai", "anthropic", "gemini", "sharegpt", "trl", "jsonl")
    ),
]


@pytest.fixture(scope="module")
def records():
    return [record for talk in conversations() for record in talk.records]


@pytest.fixture
def both(dsn, other_dsn, records):
    """The same conversations, linked, in two databases."""

    async def fill(target, history):
        async with (
            Store(target, config.Store(history=history)) as store,
            LinkStore(target) as links,
        ):
            await store.execute("UPDATE agent_secrets SET value = 'one for both'")
            await store.write(
                records, {row.id: Beside(link=link_of(row, DIGESTS)) for row in records}
            )
            await Linker(CONFIG, links, None).settle(LATER)
            found = await store.fetch("SELECT count(*) AS n FROM agent_contexts")
            assert (found[0]["n"] > 0) == (history == "shared")

    given = dict(zip(HISTORIES, (dsn, other_dsn), strict=True))
    for history, target in given.items():
        asyncio.run(fill(target, history))
    return given


def test_commands_print_the_same(both, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENT_TELEMETRY__DATA_DIR", str(tmp_path))
    for command in COMMANDS:
        printed = {}
        for history, target in both.items():
            monkeypatch.setenv("DATABASE_URL", target)
            monkeypatch.setenv("AGENT_TELEMETRY__STORE__HISTORY", history)
            out = tmp_path / "out.jsonl"
            done = CliRunner().invoke(
                main, [str(out) if part == "OUT" else part for part in command]
            )
            files = sorted(file.read_bytes() for file in tmp_path.glob("out*"))
            printed[history] = done.exit_code, done.stdout, files
        assert printed["full"] == printed["shared"], command
        assert printed["full"][1], command
