"""The shape of the program, checked from its imports."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "proxy"
STAGES = {"wire", "spool", "decode", "enrich", "store", "views", "export", "admin", "otel"}
STAGES |= {"fleet"}
SHARED = {"exchange", "call", "turn", "record", "endpoints", "labels", "config", "errors"}
SHARED |= {"socket_part", "injected", "genai", "report", "sums"}
FOUNDATIONS = SHARED | {"nouns", "metrics", "log", "crash", "tasks"}
IMPURE = {"asyncio", "aiohttp", "asyncpg", "os", "pathlib", "time", "logging", "socket"}
_EXPORT = ("message", "history", "pairing", "media", "tools", "conversation", "trace", "tree")
_EXPORT += ("formats", "openai", "anthropic", "gemini", "sharegpt", "card", "genai")
PURE = {f"export/{name}" for name in _EXPORT} | {
    *("otel/span", "otel/attributes", "otel/measured", "store/spans"),
    "genai",
    "turn",
    "injected",
    "report",
    "sums",
    "wire/headers",
    "wire/routes",
    "fleet/message",
    "fleet/subjects",
    "exchange",
    "call",
    "record",
    "labels",
    "endpoints",
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(module: Path) -> set[str]:
    """Dotted names of everything a module imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found.add(node.module or "")
            if node.module == "proxy":
                found |= {f"proxy.{alias.name}" for alias in node.names}
    return found


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).with_suffix("").as_posix()


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_stage_imports_nouns_and_foundations_only(module):
    stage = name_of(module).partition("/")[0]
    if stage not in STAGES:
        return
    own = {name.split(".")[1] for name in imports_of(module) if name.startswith("proxy.")}
    assert own <= FOUNDATIONS | {stage}


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_nouns_and_foundations_import_no_stage(module):
    if name_of(module) in FOUNDATIONS:
        own = {name.split(".")[1] for name in imports_of(module) if name.startswith("proxy.")}
        assert own <= FOUNDATIONS


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_pure_modules_touch_neither_clock_nor_world(module):
    if name_of(module) in PURE or name_of(module).startswith(("decode/", "enrich/")):
        assert not {name.partition(".")[0] for name in imports_of(module)} & IMPURE


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("asyncpg", ("store/postgres", "store/embedded")),
        ("aiohttp", ("admin/",)),
        ("opentelemetry", ("otel/sender",)),
        ("nats", ("fleet/",)),
    ],
)
def test_libraries_stay_where_they_belong(library, allowed):
    users = [name_of(m) for m in MODULES if library in {n.partition(".")[0] for n in imports_of(m)}]
    assert users
    assert [user for user in users if not user.startswith(allowed)] == []


def test_only_config_reads_the_environment():
    readers = [
        name_of(m)
        for m in MODULES
        if any(
            isinstance(n, ast.Attribute) and n.attr in ("environ", "getenv")
            for n in ast.walk(ast.parse(m.read_text()))
        )
    ]
    # The embedded server and the demonstration hand a cleaned environment to a child process.
    assert set(readers) <= {"config", "store/embedded", "demo"}
