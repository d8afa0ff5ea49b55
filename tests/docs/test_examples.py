"""What the documentation shows works: queries, settings, commands, programs, links."""

import asyncio
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import click
import pytest

from proxy.cli import main
from proxy.config import Config
from proxy.environment import ENV_PREFIX, load
from proxy.linker import Linker
from proxy.store.links import LinkStore
from proxy.store.postgres import Store
from tests.database import fetched
from tests.docs.answering import answering
from tests.docs.blocks import PAGES, ROOT, blocks
from tests.e2e.stack import Stack, until
from tests.turns.scripts import Talk
from tests.turns.test_linker import CONFIG, write

QUERIES = list(blocks("sql"))
SETTINGS = list(blocks("toml"))
PROGRAMS = [block for block in blocks("python") if block.page.name == "clients.md"]
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"`([\w-]+/[\w/-]+\.py)(?:::(\w+))?`")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


# --- SQL ---


@pytest.fixture
def table(dsn):
    """Conversations of today, so that every query finds something."""
    at = datetime.now(UTC) - timedelta(hours=2)
    usual = {"project_id": "shop", "provider": "openai", "cost_usd": 0.01, "cached_tokens": 5}
    talk = (
        Talk("thread-42", at=at)
        .user("I want a refund")
        .call(None, [("read", {"path": "a"})], ttft_ms=50, labels={"release": "7"}, **usual)
    )
    capture = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    talk.results("Error: no such file").call("done", ttft_ms=70, capture=capture, **usual)
    early = Talk("thread-43", at=at).user("go").call(None, [("read", {"path": "b"})])
    early.user("stop").call("stopped")
    limit = {"outcome": "upstream_error", "status": 429, "error": "slow down"}
    failed = Talk("thread-44", at=at).user("go").call(None, **usual, **limit)
    asyncio.run(recorded(dsn, [*talk.records, *early.records, *failed.records]))
    insert = "INSERT INTO agent_feedback (id, session_id, name, value) VALUES ($1, $2, $3, $4)"
    run(dsn, insert, uuid4(), "thread-42", "thumbs", '"up"')
    return dsn


async def recorded(dsn, records):
    """Store and link what was said, as of now."""
    async with Store(dsn) as store, LinkStore(dsn) as links:
        await write(store, records)
        await Linker(CONFIG, links, None).settle(datetime.now(UTC))


def run(dsn, query, *values):
    return asyncio.run(fetched(dsn, query, *values))


@pytest.mark.parametrize("block", QUERIES, ids=str)
def test_a_query_runs_and_finds_something(table, block):
    for query in filter(str.strip, block.text.split(";")):
        assert run(table, query), query


def test_the_recipes_are_more_than_ten():
    assert sum(block.page.name == "recipes.md" for block in QUERIES) >= 10


# --- settings ---


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_settings_are_a_valid_configuration(block, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef")
    file = tmp_path / "config.toml"
    file.write_text(re.sub(r'"/run/secrets/[^"]*"', f'"{secret}"', block.text))
    load(file, {"HOME": str(tmp_path)})


def test_variables_that_are_named_are_settings():
    found = {
        name for page in PAGES for name in re.findall(rf"{ENV_PREFIX}[A-Z_]+\b", page.read_text())
    }
    assert len(found) > 3
    for name in found - {f"{ENV_PREFIX}SECTION__KEY"}:
        section, key = name.removeprefix(ENV_PREFIX).lower().split("__")[:2]
        field = Config.model_fields[section]
        model = field.default_factory() if field.default_factory else None
        assert section == "upstreams" or key.removesuffix("_file") in type(model).model_fields, name


# --- commands ---


def commands():
    """Command lines of this program in shell blocks, continued lines joined."""
    for language in ("sh", "console"):
        for block in blocks(language):
            text = re.sub(r"\\\n\s*", "", block.text)
            for line in text.splitlines():
                line = line.removeprefix("$ ").split(" #")[0]
                for part in re.split(r"\||&&", line):
                    if part.strip().startswith("agent-telemetry "):
                        yield str(block), part.strip()


COMMANDS = list(commands())


@pytest.mark.parametrize(
    ("where", "line"), COMMANDS, ids=[f"{where} {line}" for where, line in COMMANDS]
)
def test_a_command_line_is_understood(where, line):
    name, *arguments = shlex.split(line)[1:]
    command = main.commands[name]
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    command.make_context(name, arguments)  # raises where an option or a value is wrong


def test_commands_are_shown():
    assert len(COMMANDS) > 8


# --- programs ---


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
async def test_a_program_of_the_guides_runs_and_is_recorded(block, tmp_path, dsn):
    async with (
        answering() as upstream,
        Stack(tmp_path / "data", upstream, STORE__DSN=dsn) as stack,
    ):
        await stack.until_ready()
        keys = {f"{name}_API_KEY": "a-key" for name in ("OPENAI", "ANTHROPIC", "GEMINI")}
        done = await asyncio.to_thread(
            subprocess.run,
            [
                sys.executable,
                "-W",
                "ignore",
                "-c",
                block.text.replace("http://127.0.0.1:8080", stack.url),
            ],
            env=stack.environment | keys,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().endswith("Hello!")
        await stack.stop()
        (row,) = await stack.fetch(
            "SELECT session_id, outcome FROM agent_telemetry WHERE record_type = 'llm_call'"
        )
        assert row["outcome"] == "complete"
        named = re.search(r'x-telemetry-session": "([^"]+)"', block.text)
        assert named is None or row["session_id"] == named[1]


async def test_the_example_agent_runs_as_the_readme_says(tmp_path, dsn):
    async with (
        answering() as upstream,
        Stack(tmp_path / "data", upstream, STORE__DSN=dsn) as stack,
    ):
        await stack.until_ready()
        url = f"{stack.url}/p/shop/s/thread-42/openai/v1"
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, str(ROOT / "examples/agent.py"), "one", "two"],
            env=stack.environment | {"OPENAI_API_KEY": "a-key", "OPENAI_BASE_URL": url},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout == "Hello!\nHello!\n"

        async def ended():
            return len(await stack.fetch("SELECT id FROM agent_telemetry")) == 4

        await until(ended, "two calls and two turns are stored")
        shown = await asyncio.to_thread(stack.command, "replay", "thread-42")
        assert "2 turns, 2 calls" in shown.stdout


# --- links ---


every_page = pytest.mark.parametrize(
    "page", sorted({*PAGES, *ROOT.glob("[A-Z]*.md")}), ids=lambda page: page.name
)


@every_page
def test_modules_and_tests_that_are_named_are_there(page):
    for path, test in NAMED.findall(page.read_text()):
        found = [place / path for place in (ROOT, ROOT / "proxy", ROOT / "tests")]
        texts = [file.read_text() for file in found if file.exists()]
        assert texts, path
        assert not test or any(f"def {test}(" in text for text in texts), f"{path}::{test}"


@every_page
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in {_anchor(text) for text in HEADING.findall(file.read_text())}, target


def _anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
