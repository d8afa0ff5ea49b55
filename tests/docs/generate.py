"""Writes the parts of the documentation that follow from the program.

    python -m tests.docs.generate

docs/configuration.md from the pydantic models and the comments of config.example.toml,
docs/metrics.md from the declared metrics, docs/table.md from the comments in a migrated database.
`tests/docs/test_generated.py` fails where a file is not what this writes.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from proxy.config import Config
from proxy.store.embedded import EmbeddedServer
from proxy.store.migrate import migrate
from tests.database import connected
from tests.docs.catalogue import declared

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NOTE = "<!-- Written by `make docs`; change the program instead. -->"

# --- configuration ---

_SECTION = re.compile(r"#? ?\[([a-z.-]+)\]")
_KEY = re.compile(r"#? ?([a-z_]+) = .*")


_CONFIGURATION = f"""# Configuration

{NOTE}

No file at all is a valid configuration. Settings come from a TOML file (`--config FILE`, or
`AGENT_TELEMETRY_CONFIG`) and from the environment, which wins. In the environment a key is
`AGENT_TELEMETRY__SECTION__KEY`; `-` in the name of an upstream is `_` there; lists are JSON or
separated by commas. `DATABASE_URL` is accepted for `store.dsn`. A key marked *secret* can be given
as `KEY_file`, the path of a file that holds it. Unknown keys are errors. Changes take a restart.
`agent-telemetry check-config` prints what is in force.

[config.example.toml](../config.example.toml) holds every key with its default."""


def explained() -> dict[str, str]:
    """What config.example.toml says of each key and section: the comment above it."""
    found: dict[str, str] = {}
    section, said = "", []
    for line in (ROOT / "config.example.toml").read_text().splitlines():
        if heading := _SECTION.fullmatch(line):
            section = re.sub(r"^(upstreams|projects|prices)\..*", r"\1.NAME", heading[1])
            found.setdefault(section, " ".join(said))
            said = []
        elif (key := _KEY.fullmatch(line)) and _is_setting(line):
            if not key[1].endswith("_file") or said:
                found.setdefault(f"{section}.{key[1]}".lstrip("."), " ".join(said))
            said = []
        elif line.startswith("#"):
            said.append(line.lstrip("# ").strip())
        else:
            said = []
    return found


def _is_setting(line: str) -> bool:
    """Whether a line sets a key, be it behind a `#`; and is not a sentence with a `=` in it."""
    try:
        tomllib.loads(line.lstrip("# "))
    except tomllib.TOMLDecodeError:
        return False
    return True


def configuration() -> str:
    """Every key by section: type, default, meaning, and its name in the environment."""
    lines = [_CONFIGURATION]
    known = explained()
    top = [(name, field) for name, field in Config.model_fields.items() if not _model(field)]
    lines += ["", "## Top level", "", *_table("", top, known)]
    for name, field in Config.model_fields.items():
        if model := _model(field):
            path = f"{name}.NAME" if _is_table(field) else name
            lines += ["", f"## {path}", ""]
            if known.get(path):
                lines += [known[path], ""]
            lines += _table(f"{path}.", list(model.model_fields.items()), known)
    return "\n".join(lines) + "\n"


def _table(prefix: str, fields: list[tuple[str, FieldInfo]], known: dict[str, str]) -> list[str]:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in fields:
        meaning = known.get(prefix + name, "").replace("|", "\\|")
        lines.append(
            f"| `{prefix}{name}` | {_type(field.annotation, field.metadata)} | "
            f"{_default(field)} | {meaning} |"
        )
    return lines


def undocumented() -> list[str]:
    """Keys that config.example.toml does not explain."""
    rows = (line.split(" | ") for line in configuration().splitlines() if line.startswith("| `"))
    return [cells[0].strip("| `") for cells in rows if not cells[-1].strip(" |")]


def _model(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds, or that its table holds by name."""
    found = field.annotation
    if typing.get_origin(found) is dict:
        found = typing.get_args(found)[1]
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _is_table(field: FieldInfo) -> bool:
    return typing.get_origin(field.annotation) is dict


_WORDS = {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path"}


def _type(annotation: Any, metadata: list[Any]) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(inner[0], [*getattr(inner[1], "metadata", ()), *metadata])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of {_type(inner[0], [])}"
    if origin is dict:
        return "table"
    if type(None) in inner:
        (one,) = [each for each in inner if each is not type(None)]
        return _type(one, metadata)
    if annotation is SecretStr:
        return "text, *secret*"
    return f"{_WORDS[annotation]}{_limits(metadata)}"


def _limits(metadata: list[Any]) -> str:
    """`, 1 to 256` from the constraints of a number."""
    found = {
        name: getattr(each, name)
        for each in metadata
        for name in ("ge", "gt", "le")
        if getattr(each, name, None) is not None
    }
    parts = []
    if "gt" in found:
        parts.append(f"more than {found['gt']:,}")
    if "ge" in found:
        parts.append(f"at least {found['ge']:,}")
    if "le" in found:
        parts.append(f"at most {found['le']:,}")
    return f", {', '.join(parts)}" if parts else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "" if field is Config.model_fields["data_dir"] else "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{json.dumps(value) if isinstance(value, tuple) else value}`"


# --- metrics ---


_METRICS = f"""# Metrics

{NOTE}

`/metrics` on the admin listener, in Prometheus' text format. Counters of all processes are added
up. In every scrape `captured = stored + waiting + quarantined + lost`; these totals come from the
spool and survive restarts, all others are those since the start.

The `gen_ai_*` metrics have the names of OpenTelemetry's GenAI conventions (1.41), as its Prometheus
exporter writes them. A model is a label for the first 100 that were seen, then `other`. What is
sent to an OpenTelemetry endpoint: [opentelemetry.md](opentelemetry.md).

| metric | type | labels | meaning |
|---|---|---|---|"""


def metrics() -> str:
    """Every metric: name, type, labels, meaning."""
    lines = [_METRICS]
    for each in declared():
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `{each.name}` | {each.kind} | {labels} | {each.meaning} |")
    return "\n".join(lines) + "\n"


# --- the table ---

_TABLE = f"""# The table `agent_telemetry`

{NOTE}

The same texts stand in the database: `\\d+ agent_telemetry` in psql. An existing table of this name
is taken over with its rows; missing columns are added.

| column | type | meaning |
|---|---|---|"""
_COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS is_required,
    col_description(a.attrelid, a.attnum) AS meaning
FROM pg_attribute a WHERE a.attrelid = 'agent_telemetry'::regclass AND a.attnum > 0
    AND NOT a.attisdropped ORDER BY a.attnum
"""
_RELATIONS = """
SELECT c.relname AS name, c.relkind = 'v' AS is_view, obj_description(c.oid) AS meaning
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'p')
    AND NOT c.relispartition AND c.relname LIKE 'agent%' ORDER BY c.relname
"""
_INDEXES = """
SELECT indexname AS name, regexp_replace(indexdef, '^.* USING ', '') AS definition FROM pg_indexes
WHERE tablename = 'agent_telemetry' ORDER BY indexname
"""


async def table(dsn: str) -> str:
    """Every column, index, and what lies beside, from the comments of a migrated database."""
    async with connected(dsn) as connection:
        columns = await connection.fetch(_COLUMNS)
        relations = await connection.fetch(_RELATIONS)
        indexes = await connection.fetch(_INDEXES)
    return "\n".join(_written(columns, relations, indexes)) + "\n"


def _written(columns: Any, relations: Any, indexes: Any) -> Iterator[str]:
    yield _TABLE
    for row in columns:
        kind = row["type"].replace("character varying", "varchar")
        kind = kind.replace("timestamp with time zone", "timestamptz")
        kind += " not null" if row["is_required"] else ""
        yield f"| `{row['name']}` | {kind} | {row['meaning']} |"
    yield from ("", "## Indexes", "", "| index | definition |", "|---|---|")
    for row in indexes:
        definition = row["definition"].replace("|", "\\|")
        yield f"| `{row['name']}` | `{definition}` |"
    yield from ("", "## Beside it", "", "| table or view | |", "|---|---|")
    for row in relations:
        if row["name"] != "agent_telemetry":
            yield f"| `{row['name']}`{' (view)' if row['is_view'] else ''} | {row['meaning']} |"


def main() -> None:
    (DOCS / "configuration.md").write_text(configuration())
    (DOCS / "metrics.md").write_text(metrics())
    with tempfile.TemporaryDirectory(prefix="agent-telemetry-") as directory:
        server = EmbeddedServer(Path(directory), {"fsync": "off"})
        try:
            dsn = server.start()
            asyncio.run(migrate(dsn))
            (DOCS / "table.md").write_text(asyncio.run(table(dsn)))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
