"""Commands for what is recorded: export, purge, copy, doctor. They dispatch and print, no logic."""

from __future__ import annotations

import asyncio
import shutil
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proxy.environment import load
from proxy.errors import ProxyError
from proxy.forms import postgres_dsn
from proxy.options import LABEL, PIPE_WIDTH, TEXT, instant, print_json, with_config

if TYPE_CHECKING:
    from proxy.exporting import Options
    from proxy.store.examples import Feedback

FORMATS = ("openai", "anthropic", "gemini", "sharegpt", "trl", "parquet", "jsonl")


def _labels(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[str, str | None], ...]:
    parts = [text.partition("=") for text in texts]
    if not all(name for name, _, _ in parts):
        raise click.BadParameter("write NAME or NAME=VALUE", context, option)
    return tuple((name, value if sign else None) for name, sign, value in parts)


def _feedback(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> tuple[Feedback, ...]:
    from proxy.store.examples import Feedback

    try:
        return tuple(map(Feedback.of, texts))
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from None


@click.command()
@click.option("--format", type=click.Choice(FORMATS), required=True, help="Shape of an example.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, resolve_path=True),
    required=True,
    metavar="PATH",
    help="The file to write; dataset_card.md goes beside it.",
)
@with_config
@click.option("--project", type=LABEL, help="Only this project.")
@click.option("--session", type=LABEL, help="Only this session.")
@click.option(
    "--model", "models", type=TEXT, multiple=True, help="Only answers of this model; repeatable."
)
@click.option("--since", callback=instant, help="Only examples since: 24h, 7d, date.")
@click.option("--until", callback=instant, help="As if recording had ended then.")
@click.option(
    "--stop-reason",
    "stop_reasons",
    type=TEXT,
    multiple=True,
    default=("completed",),
    show_default=True,
    help="Only turns that ended so; repeatable; `any`: also what has not ended.",
)
@click.option(
    "--min-rounds",
    "rounds_min",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Only turns with at least so many model calls.",
)
@click.option(
    "--max-tokens",
    "tokens_max",
    type=click.IntRange(1),
    help="Only examples with at most so many tokens.",
)
@click.option(
    "--label",
    "labels",
    type=TEXT,
    multiple=True,
    callback=_labels,
    metavar="NAME[=VALUE]",
    help="Only calls with this label; repeatable.",
)
@click.option(
    "--feedback",
    type=TEXT,
    multiple=True,
    callback=_feedback,
    metavar="NAME[=VALUE]",
    help="Only where this was said: thumbs=up, 'score>=0.8'; repeatable.",
)
@click.option(
    "--thoughts",
    type=click.Choice(("keep", "drop")),
    default="keep",
    show_default=True,
    help="What models thought; openai has no place for it.",
)
@click.option(
    "--split",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of conversations in PATH's .train file, the rest in .validation.",
)
@click.option(
    "--pairs",
    "has_pairs",
    is_flag=True,
    help="Preference pairs from histories that were answered twice.",
)
@click.option(
    "--redact",
    type=click.Choice(("strict",)),
    help="Search every example again for secrets, by the rules of now.",
)
@click.option(
    "--since-last",
    is_flag=True,
    help="Only what earlier runs did not write, into a file of its own.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(config_path: Path | None, as_json: bool, **given: Any) -> None:
    """Write a data set for fine-tuning: one example per conversation leaf.

    \b
    Example:
      agent-telemetry export --format openai --out train.jsonl --project shop
      agent-telemetry export --format trl --out dpo.jsonl --pairs --split 0.9
    """
    config = load(config_path)
    from proxy.exporting import export as write

    done = asyncio.run(write(config, _options(**given)))
    tally = done.tally
    if as_json:
        files = {str(path): tally.splits[split] for split, path in done.files.items()}
        print_json({"files": files, "card": done.card, "left_out": dict(tally.skipped)})
        return
    for split, path in done.files.items():
        click.echo(f"{tally.splits[split]:>8}  examples in {path}")
    for reason, count in tally.skipped.most_common():
        click.echo(f"{count:>8}  left out: {reason}")
    click.echo(f"          more in {done.card}")


def _options(
    *,
    format: str,
    out: Path,
    stop_reasons: tuple[str, ...],
    rounds_min: int,
    thoughts: str,
    split: float | None,
    has_pairs: bool,
    redact: str | None,
    since_last: bool,
    **filters: Any,
) -> Options:
    from proxy.export.formats import Format
    from proxy.export.tree import Wanted
    from proxy.exporting import Options
    from proxy.store.examples import Filters

    return Options(
        format=Format(format),
        out=out,
        filters=Filters(**filters),
        wanted=Wanted(stop_reasons, rounds_min),
        keeps_thoughts=thoughts == "keep",
        split=split,
        has_pairs=has_pairs,
        is_strict=redact is not None,
        since_last=since_last,
    )


@click.command()
@with_config
@click.option("--session", type=LABEL, help="Delete this session.")
@click.option(
    "--project", type=LABEL, help="Delete this project; with --session, that session of it."
)
@click.option("--before", callback=instant, help="Delete what is older: 30d, date.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def purge(
    config_path: Path | None,
    session: str | None,
    project: str | None,
    before: datetime | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete recorded calls and turns with everything kept beside them.

    What still waits in the spool is stored later. Recording goes on meanwhile.

    \b
    Example:
      agent-telemetry purge --before 90d
      agent-telemetry purge --project shop --session thread-42 --yes
    """
    if session is None and project is None and before is None:
        raise click.UsageError("say what: --session, --project or --before")
    config = load(config_path)
    from proxy import maintenance
    from proxy.store.purge import Scope
    from proxy.views import upkeep as view

    scope = Scope(before or datetime.now(UTC), project, session)
    found = asyncio.run(maintenance.count_purged(config, scope))
    click.echo(view.extent_as_text(found), err=as_json)
    if not yes and found.rows:
        if sys.stdin is None or not sys.stdin.isatty():  # None where it is closed
            raise click.UsageError("nobody can be asked here: repeat with --yes")
        if not click.confirm("Delete them?", err=True):
            raise ProxyError("nothing was deleted")
    done = asyncio.run(maintenance.purge(config, scope, found.rows))
    if as_json:
        print_json(asdict(done))
    else:
        click.echo(view.purged_as_text(done))


@click.command()
@with_config
@click.option("--to", "destination", required=True, metavar="DSN", help="PostgreSQL to copy into.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def copy(config_path: Path | None, destination: str, as_json: bool) -> None:
    """Copy the configured database, the embedded one included, into another.

    A copy that broke off goes on where it stopped. Stop the recorder before the last one, and
    start it again with store.dsn set to the destination: where rows differ, these ones win.

    \b
    Example:
      agent-telemetry copy --to postgresql://me@db/telemetry
    """
    config = load(config_path)
    from proxy import maintenance
    from proxy.views import upkeep as view

    try:
        postgres_dsn(destination)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--to") from None
    tables = asyncio.run(maintenance.copy(config, destination))
    if as_json:
        print_json([asdict(table) | {"is_whole": table.is_whole} for table in tables])
    else:
        click.echo(view.copied_as_text(tables))
    if not all(table.is_whole for table in tables):
        sys.exit(1)


@click.command()
@with_config
@click.option("--since", callback=instant, default="7d", show_default=True, help="24h, 7d, date.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(config_path: Path | None, since: datetime, as_json: bool) -> None:
    """Is anything silently wrong? Exits 1 when something needs attention.

    Looks for empty answers, bytes that decoders could not read, cut bodies, failed redaction,
    rows that were refused, lost and waiting calls, and missing tables or indexes.

    \b
    Example:
      agent-telemetry doctor --since 24h
    """
    config = load(config_path)
    from proxy.doctor import examined
    from proxy.views import upkeep as view

    findings = asyncio.run(examined(config, since))
    if as_json:
        print_json([view.finding_as_json(finding) for finding in findings])
    else:
        width = shutil.get_terminal_size((PIPE_WIDTH, 0)).columns
        click.echo(view.findings_as_text(findings, width))
    if findings:
        sys.exit(1)
