"""A database filled with scripted conversations, and data sets made from it."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.enrich.facts import link_of
from proxy.linker import Linker
from proxy.record import Beside
from proxy.store.links import LinkStore
from proxy.store.postgres import Store
from tests.turns.scripts import DIGESTS, LATER
from tests.turns.test_linker import CONFIG


@dataclass(frozen=True)
class DataSet:
    """What a run has written."""

    path: Path
    code: int
    output: str

    @property
    def lines(self):
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    @property
    def card(self):
        return (self.path.parent / "dataset_card.md").read_text()

    @property
    def left_out(self):
        """Reason → how many, as printed."""
        found = (line.split("left out: ") for line in self.output.splitlines())
        return {parts[1]: int(parts[0]) for parts in found if len(parts) == 2}


async def filled(dsn, records, blobs=()):
    """Store and link these records, then let all turns end."""
    async with Store(dsn) as store, LinkStore(dsn) as links:
        beside = {row.id: Beside(tuple(blobs), None, link_of(row, DIGESTS)) for row in records}
        await store.write(records, beside)
        await Linker(CONFIG, links, None).settle(LATER)


@pytest.fixture
def fill(dsn):
    def run(*talks, blobs=()):
        asyncio.run(filled(dsn, [row for talk in talks for row in talk.records], blobs))

    return run


@pytest.fixture
def export(dsn, tmp_path, monkeypatch):
    """Runs the command; gives what it has written."""
    monkeypatch.setenv("AGENT_TELEMETRY__DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", dsn)

    def run(format="openai", *arguments, to="data.jsonl"):
        out = tmp_path / "out" / to
        done = CliRunner().invoke(
            main, ["export", "--format", format, "--out", str(out), *arguments]
        )
        return DataSet(out, done.exit_code, done.output)

    return run


@pytest.fixture
def query(dsn):
    def run(text, *values):
        async def fetch():
            async with Store(dsn) as store:
                return await store.fetch(text, *values)

        return asyncio.run(fetch())

    return run
