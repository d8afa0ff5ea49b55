"""The shape of the program, checked from its imports."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "proxy"
STAGES = {"wire", "spool", "decode", "enrich", "store", "views", "export", "admin", "otel"}
STAGES |= {"fleet"}
SHARED = {"exchange", "call", "turn", "record", "endpoints", "labels", "config", "errors"}
SHARED |= {"socket_part", "injected", "genai", "report", "sums"}
FOUNDATIONS = SHARED | {"environment", "nouns", "metrics", "log", "crash", "tasks", "forms"}
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
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


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


def of_stages(*stages: str) -> list[str]:
    return [name for name in MODULES if name.partition("/")[0] in stages and "/" in name]


def parts_used(name: str) -> set[str]:
    """The modules and stages of this program that a module imports from."""
    return {n.split(".")[1] for n in imports_of(MODULES[name]) if n.startswith("proxy.")}


@pytest.mark.parametrize("name", of_stages(*STAGES))
def test_a_stage_imports_nouns_and_foundations_only(name):
    assert parts_used(name) <= FOUNDATIONS | {name.partition("/")[0]}


@pytest.mark.parametrize("name", sorted(FOUNDATIONS))
def test_nouns_and_foundations_import_no_stage(name):
    assert parts_used(name) <= FOUNDATIONS


@pytest.mark.parametrize("name", sorted({*PURE, *of_stages("decode", "enrich")}))
def test_pure_modules_touch_neither_clock_nor_world(name):
    assert not {name.partition(".")[0] for name in imports_of(MODULES[name])} & IMPURE


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("asyncpg", ("store/connection", "store/postgres")),
        ("aiohttp", ("admin/",)),
        ("opentelemetry", ("otel/sender",)),
        ("nats", ("fleet/",)),
    ],
)
def test_libraries_stay_where_they_belong(library, allowed):
    users = [
        name
        for name, path in MODULES.items()
        if library in {imported.partition(".")[0] for imported in imports_of(path)}
    ]
    assert users
    assert [user for user in users if not user.startswith(allowed)] == []


def test_only_one_module_reads_the_environment():
    readers = [
        name
        for name, path in MODULES.items()
        if any(
            isinstance(n, ast.Attribute) and n.attr in ("environ", "getenv")
            for n in ast.walk(ast.parse(path.read_text()))
        )
    ]
    # The embedded server and the demonstration hand a cleaned environment to a child process.
    assert set(readers) <= {"environment", "store/embedded", "demo"}
