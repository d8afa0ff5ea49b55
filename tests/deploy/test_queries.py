"""Every SQL query of the dashboard is run against a real table with calls and turns."""

import asyncio
import json
import random
import re

import pytest

from tests.database import fetched
from tests.deploy.test_deploy import DEPLOY, targets
from tests.turns.scripts import Talk
from tests.turns.test_linker import linked

QUERIES = [(title, each["format"], each["rawSql"]) for title, each in targets() if "rawSql" in each]
# Queries that give nothing on the scripted conversations would prove little: none may.
MACROS = (
    (
        re.compile(r"\$__timeGroupAlias\((\w+), \$__interval\)"),
        r"to_timestamp(floor(extract(epoch from \1) / 60) * 60) AS time",
    ),
    (
        re.compile(r"\$__timeFilter\((\w+)\)"),
        r"\1 BETWEEN '2026-01-01T00:00:00Z' AND '2027-01-01T00:00:00Z'",
    ),
    (re.compile(r"\$\{project:sqlstring\}"), "'', 'shop'"),
)


def expanded(text):
    """As Grafana sends it."""
    for macro, meaning in MACROS:
        text = macro.sub(meaning, text)
    assert "$" not in text
    return text


@pytest.fixture
def table(dsn):
    talk = Talk("s").user("go").call("hm", [("read", {"path": "a"})], project_id="shop")
    talk.results("Error: no such file").call("done", project_id="shop", cost_usd=0.01)
    failed = Talk("t").wait(60).user("go").call(None, outcome="upstream_error", status=429)
    cached = Talk("u").wait(90).user("go").call("ok", cached_tokens=5, cost_usd=0.02, ttft_ms=4)
    records = [*talk.records, *failed.records, *cached.records]
    asyncio.run(linked(dsn, records, random.Random(0)))
    return dsn


def fetch(dsn, query):
    return asyncio.run(fetched(dsn, query))


@pytest.mark.parametrize(
    ("title", "format", "query"), QUERIES, ids=[title for title, _, _ in QUERIES]
)
def test_a_query_of_the_dashboard_runs(table, title, format, query):
    rows = fetch(table, expanded(query))
    assert rows
    if format == "time_series":
        assert list(rows[0].keys()) == ["time", "metric", "value"]


def test_the_list_of_projects_runs(table):
    dashboard = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    (project,) = [each for each in dashboard["templating"]["list"] if each["name"] == "project"]
    assert [row[0] for row in fetch(table, project["query"])] == ["", "shop"]
