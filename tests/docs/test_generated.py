"""The parts of the documentation that follow from the program are what the program says."""

import asyncio
import re

from tests.docs.blocks import ROOT
from tests.docs.catalogue import declared
from tests.docs.generate import DOCS, configuration, explained, metrics, table, undocumented

AGAIN = "run `make docs` and commit what it wrote"


def test_the_configuration_reference_is_up_to_date():
    assert (DOCS / "configuration.md").read_text() == configuration(), AGAIN


def test_every_key_is_explained_in_the_example():
    assert undocumented() == [], "write a comment above the key in config.example.toml"
    assert explained()["gateway.workers"] == "Gateway processes that share the port."


def test_the_metrics_reference_is_up_to_date():
    assert (DOCS / "metrics.md").read_text() == metrics(), AGAIN


def test_every_metric_that_the_program_names_is_in_the_reference():
    known = {each.name.removesuffix("_total") for each in declared()}
    named = set()
    for module in (ROOT / "proxy").rglob("*.py"):
        text = module.read_text()
        if "prometheus_client" in text:
            named |= set(re.findall(r'"((?:agent_telemetry|gen_ai)_[a-z_]+)"', text))
    assert len(named) > 20
    assert named - known - labels() == set()


def labels():
    return {label for each in declared() for label in each.labels}


def test_the_table_reference_is_up_to_date(dsn):
    written = asyncio.run(table(dsn))
    assert (DOCS / "table.md").read_text() == written, AGAIN
    assert "| None |" not in written, "give it a COMMENT in a migration"
