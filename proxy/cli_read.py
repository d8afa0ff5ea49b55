"""Commands that show what was recorded: tail, replay, report. They dispatch and print, no logic."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from proxy.config import Config
from proxy.environment import load, wants_colours
from proxy.options import LABEL, LINES_MAX, PIPE_WIDTH, TEXT, instant, print_json, with_config

if TYPE_CHECKING:
    from proxy.store.selection import Selection

REPORT_NAMES = (
    *("stop-reasons", "early-cut", "tools", "models", "latency", "tokens", "errors", "sessions"),
)


@click.command()
@with_config
@click.option("--follow", "-f", is_flag=True, help="Keep printing as calls arrive.")
@click.option("--project", type=LABEL, help="Only this project.")
@click.option("--session", type=LABEL, help="Only this session.")
@click.option("--model", type=TEXT, help="Only this model.")
@click.option("--errors", is_flag=True, help="Only what did not end well.")
@click.option("--turns", is_flag=True, help="Turns instead of calls.")
@click.option(
    *("--lines", "-n"),
    type=click.IntRange(0, LINES_MAX),
    default=20,
    show_default=True,
    help="Recorded rows to begin with.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def tail(config_path: Path | None, lines: int, as_json: bool, follow: bool, **wanted: Any) -> None:
    """Print recorded calls as lines, newest last.

    \b
    Example:
      agent-telemetry tail --follow --errors
      agent-telemetry tail --session thread-42 --json | jq .tool_calls
    """
    config = load(config_path)
    from proxy.store.selection import Selection

    asyncio.run(_print_rows(config, Selection(**wanted), lines, follow=follow, as_json=as_json))


@click.command()
@click.argument("session", type=LABEL)
@with_config
@click.option("--project", type=LABEL, help="Of this project, where several know the session.")
@click.option("--turn", type=click.UUID, help="Only this turn.")
@click.option("--full", is_flag=True, help="Do not cut long texts.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row.")
def replay(
    session: str,
    config_path: Path | None,
    project: str | None,
    turn: UUID | None,
    full: bool,
    as_json: bool,
) -> None:
    """Print a conversation: what was said, thought, called, returned, and how turns ended.

    \b
    Example:
      agent-telemetry replay thread-42
      agent-telemetry replay thread-42 --full | less
    """
    config = load(config_path)
    from proxy.trajectory import conversation
    from proxy.views import replay as view
    from proxy.views import row as row_view

    rows = asyncio.run(conversation(config, session, project, turn))
    if as_json:
        for row in rows:
            click.echo(row_view.as_json(row))
        return
    width = shutil.get_terminal_size((view.WIDTH, 0)).columns
    click.echo(view.as_text(rows, width, is_full=full))


@click.command()
@click.argument("name", required=False, type=click.Choice(REPORT_NAMES), metavar="[NAME]")
@with_config
@click.option("--since", callback=instant, default="24h", show_default=True, help="24h, 7d, date.")
@click.option("--project", type=LABEL, help="Only this project.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(
    name: str | None,
    config_path: Path | None,
    since: datetime,
    project: str | None,
    as_json: bool,
) -> None:
    """Answer a diagnostic question; without NAME, an overview.

    NAME is one of stop-reasons, early-cut, tools, models, latency, tokens, errors, sessions.

    \b
    Example:
      agent-telemetry report stop-reasons --since 7d
      agent-telemetry report early-cut --project shop
    """
    config = load(config_path)
    from proxy.trajectory import report as read
    from proxy.views import report as view

    found = asyncio.run(read(config, name, since, project))
    if as_json:
        print_json(found[name] if name else found)
        return
    width = shutil.get_terminal_size((PIPE_WIDTH, 0)).columns
    click.echo("\n\n".join(view.as_text(each, rows, width) for each, rows in found.items()))


async def _print_rows(
    config: Config, selection: Selection, last: int, *, follow: bool, as_json: bool
) -> None:
    from proxy.reading import rows
    from proxy.views import lines as line_view
    from proxy.views import row as row_view

    width, is_plain = shutil.get_terminal_size((PIPE_WIDTH, 0)).columns, not wants_colours()
    async for row in rows(config, selection, last, follows=follow):
        if as_json:
            click.echo(row_view.as_json(row))
        else:
            line = line_view.line(row, width)
            click.echo(line if line_view.is_good(row) or is_plain else click.style(line, fg="red"))


async def show_session(config: Config, session: str) -> None:
    """The demonstration's two calls and its turn as lines, and the last call's row."""
    from proxy.reading import rows
    from proxy.store.selection import Selection
    from proxy.views import lines as line_view
    from proxy.views import row as row_view

    call: Mapping[str, Any] = {}
    async for row in rows(config, Selection(session=session), 10, follows=True):
        click.echo(line_view.line(row, shutil.get_terminal_size((PIPE_WIDTH, 0)).columns))
        if row["record_type"] == "turn_summary":
            break
        call = row
    click.echo(f"\n{row_view.as_text(call)}")
