"""Command line: dispatch and print, no logic.

Exit codes: 0 done, 1 it did not work, 2 the command or the configuration is wrong. Errors are one
line on stderr. Roles import what they run only when they run, so that small commands start fast
and metrics find their shared directory.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

import click

from proxy import __version__, cli_data
from proxy.config import Config, effective, is_debugging, load, share_metrics
from proxy.errors import ProxyError
from proxy.log import describe
from proxy.options import PIPE_WIDTH, F, instant, print_json, with_config

if TYPE_CHECKING:
    from proxy.store.selection import Selection

REPORT_NAMES = (
    *("stop-reasons", "early-cut", "tools", "models", "latency", "tokens", "errors", "sessions"),
)


class _Commands(click.Group):
    """The command group; turns every known error into one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        try:
            super().main(*args, **(kwargs | {"standalone_mode": False}))
        except click.exceptions.Exit as leave:
            sys.exit(leave.exit_code)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(0)
        except click.ClickException as error:
            context = error.ctx if isinstance(error, click.UsageError) else None
            hint = f" (see {context.command_path} --help)" if context else ""
            _fail(f"{error.format_message()}{hint}", error.exit_code)
        except ProxyError as error:
            _fail(str(error), error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            sys.exit(130)
        except Exception as error:
            if is_debugging():
                raise
            _fail(f"internal error: {describe(error)} (AGENT_TELEMETRY_DEBUG=1 shows more)", 1)
        sys.exit(0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. That the reader of its output, such as head, has gone is no fault.

        Here, and not in `main`: click takes it for a failure there.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)


def _fail(text: str, code: int) -> NoReturn:
    click.echo(f"agent-telemetry: {' '.join(text.split())}", err=True)
    sys.exit(code)


def as_role(command: F) -> F:
    """Adds what the supervisor hands to a process it starts."""
    command = click.option("--fd", type=int, hidden=True)(command)
    return click.option("--lifeline", type=int, hidden=True)(command)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agent-telemetry")
def main() -> None:
    """Records every model call of an agent as one true row in PostgreSQL.

    Point the agent's base URL at the gateway; nothing else changes for it.

    \b
    Example:
      agent-telemetry serve
      export OPENAI_BASE_URL=http://127.0.0.1:8080/openai/v1
      agent-telemetry tail --follow
    """


@main.command()
@with_config
def serve(config_path: Path | None) -> None:
    """Run everything on this machine: gateway, recorder, admin, database.

    Without store.dsn a PostgreSQL of its own is kept in data_dir.

    \b
    Example:
      agent-telemetry serve
      DATABASE_URL=postgresql://me@db/telemetry agent-telemetry serve
    """
    config = load(config_path)
    from proxy.supervise import Supervisor

    Supervisor(config, config_path).run()


@main.command()
@with_config
@as_role
def gateway(config_path: Path | None, fd: int | None, lifeline: int | None) -> None:
    """Run one gateway worker: forwards calls, appends them to the spool.

    With spool.transport = "nats" it is a sidecar: gateway.workers of them and the forwarder.

    \b
    Example:
      agent-telemetry gateway --config /etc/agent-telemetry.toml
    """
    if fd is None and (sidecar := load(config_path)).spool.transport == "nats":
        from proxy.supervise import Supervisor

        Supervisor(sidecar, config_path, is_sidecar=True).run()
        return
    config, sock = _role(config_path, fd, "gateway")
    from proxy.app import run_gateway

    run_gateway(config, sock, lifeline)


@main.command()
@with_config
@as_role
def forwarder(config_path: Path | None, fd: int | None, lifeline: int | None) -> None:
    """Run the forwarder: takes calls from the spool to NATS. Gateways start one by themselves.

    \b
    Example:
      agent-telemetry forwarder --config /etc/agent-telemetry.toml
    """
    config, _ = _role(config_path, fd, None)
    from proxy.app import run_forwarder

    run_forwarder(config, lifeline)


@main.command()
@with_config
@as_role
def recorder(config_path: Path | None, fd: int | None, lifeline: int | None) -> None:
    """Run the recorder: reads the spool, or takes calls from NATS, and writes rows.

    \b
    Example:
      agent-telemetry recorder --config /etc/agent-telemetry.toml
    """
    config, _ = _role(config_path, fd, None)
    from proxy.app import run_recorder

    run_recorder(config, lifeline)


@main.command()
@with_config
@as_role
def admin(config_path: Path | None, fd: int | None, lifeline: int | None) -> None:
    """Run the admin listener: /healthz, /readyz, /metrics.

    \b
    Example:
      agent-telemetry admin --config /etc/agent-telemetry.toml
    """
    config, sock = _role(config_path, fd, "admin")
    from proxy.app import run_admin

    run_admin(config, sock, lifeline)


@main.command()
@with_config
def health(config_path: Path | None) -> None:
    """Exit 0 if the local gateway answers; for container health checks.

    \b
    Example:
      agent-telemetry health && echo up
    """
    config = load(config_path)
    from proxy.probe import gateway_answers

    if not asyncio.run(gateway_answers(config.gateway.listen)):
        raise ProxyError(
            f"gateway.listen: nothing answers at {config.gateway.listen}; "
            "start it with: agent-telemetry serve"
        )
    click.echo("ok")


@main.command()
@with_config
@click.option("--convert", is_flag=True, help="Have stored rows as store.history says, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(config_path: Path | None, convert: bool, as_json: bool) -> None:
    """Bring the configured database to the current schema; with NATS, make the stream.

    With --convert rows that are stored already are changed to store.history, in small batches
    while recording goes on; a conversion that broke off goes on where it stopped.

    \b
    Example:
      DATABASE_URL=postgresql://me@db/telemetry agent-telemetry migrate
      AGENT_TELEMETRY__STORE__HISTORY=shared agent-telemetry migrate --convert
    """
    config = load(config_path)
    from proxy import maintenance
    from proxy.reading import dsn_of
    from proxy.store.migrate import migrate as bring_up

    done = asyncio.run(bring_up(dsn_of(config)))
    if config.spool.transport == "nats":
        from proxy.fleet_app import make_stream

        done += asyncio.run(make_stream(config))
    rows = asyncio.run(maintenance.convert_rows(config)) if convert else None
    if as_json:
        print_json(done if rows is None else {"migrations": done, "converted": rows})
        return
    click.echo("\n".join(done) if done else "up to date")
    if rows is not None:
        click.echo(f"{rows} rows converted to history = {json.dumps(config.store.history)}")


@main.command("check-config")
@with_config
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of KEY = VALUE lines.")
def check_config(config_path: Path | None, as_json: bool) -> None:
    """Validate the configuration and print it with secrets masked.

    \b
    Example:
      agent-telemetry check-config --config my.toml
    """
    config = load(config_path)
    from proxy.supervise import validate

    validate(config)
    values = effective(config)
    if as_json:
        print_json(values)
        return
    for key, value in _flat(values):
        click.echo(f"{key} = {json.dumps(value)}")


@main.command()
@with_config
def dsn(config_path: Path | None) -> None:
    """Print the connection string of the configured database.

    \b
    Example:
      psql "$(agent-telemetry dsn)"
    """
    config = load(config_path)
    from proxy.reading import dsn_of

    click.echo(dsn_of(config))


@main.command()
@with_config
@click.option("--follow", "-f", is_flag=True, help="Keep printing as calls arrive.")
@click.option("--project", help="Only this project.")
@click.option("--session", help="Only this session.")
@click.option("--model", help="Only this model.")
@click.option("--errors", is_flag=True, help="Only what did not end well.")
@click.option("--turns", is_flag=True, help="Turns instead of calls.")
@click.option(
    *("--lines", "-n"),
    type=click.IntRange(0),
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


@main.command()
@click.argument("session")
@with_config
@click.option("--project", help="Of this project, where several know the session.")
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


@main.command()
@click.argument("name", required=False, type=click.Choice(REPORT_NAMES), metavar="[NAME]")
@with_config
@click.option("--since", callback=instant, default="24h", show_default=True, help="24h, 7d, date.")
@click.option("--project", help="Only this project.")
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


@main.group()
def spool() -> None:
    """What is waiting between gateway and database."""


@spool.command()
@with_config
@click.option("--local", "is_local", is_flag=True, help="This machine's spool only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(config_path: Path | None, is_local: bool, as_json: bool) -> None:
    """What waits, how old, how large; and what was ever captured, stored and lost.

    With spool.transport = "nats" over all gateways and recorders of the fleet.

    \b
    Example:
      agent-telemetry spool status
    """
    config = load(config_path)
    from proxy.spool.totals import read_totals, summed
    from proxy.views import spool as view

    if config.spool.transport == "nats" and not is_local:
        from proxy.fleet_app import read_fleet
        from proxy.views import fleet as fleet_view

        fleet = asyncio.run(read_fleet(config))
        if as_json:
            print_json(fleet_view.as_json(fleet))
        else:
            click.echo(fleet_view.as_text(fleet))
        return
    sums = summed(read_totals(config.spool_dir))
    if as_json:
        print_json(view.as_json(sums))
    else:
        click.echo(view.as_text(sums))


@spool.command()
@with_config
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(config_path: Path | None, as_json: bool) -> None:
    """Read every byte of the spool, check it, and count the calls independently.

    Exits 1 where something is damaged or the count differs from the totals.

    \b
    Example:
      agent-telemetry spool verify
    """
    config = load(config_path)
    from proxy import maintenance
    from proxy.views import spool as view

    checks = maintenance.verify_spool(config)
    if as_json:
        print_json([view.check_as_json(check) for check in checks])
    else:
        click.echo(view.checks_as_text(checks))
    if any(check.problems or not check.is_consistent for check in checks):
        sys.exit(1)


@spool.command()
@with_config
@click.option("--resubmit", is_flag=True, help="Try each again; what is stored leaves the list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def quarantine(config_path: Path | None, resubmit: bool, as_json: bool) -> None:
    """List the calls whose row the database refused, by reason; or try them again.

    \b
    Example:
      agent-telemetry spool quarantine
      agent-telemetry spool quarantine --resubmit
    """
    config = load(config_path)
    from proxy import maintenance
    from proxy.views import spool as view

    if resubmit:
        done = asyncio.run(maintenance.resubmit_all(config))
        if as_json:
            print_json({"stored": done.stored, "refused": done.refused})
        else:
            click.echo(view.resubmitted_as_text(done))
        sys.exit(1 if done.refused else 0)
    found = asyncio.run(maintenance.list_quarantined(config))
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        click.echo(view.quarantined_as_text(found))


@main.command()
@with_config
@click.option(
    "--since", callback=instant, default="1970-01-01", help="Only calls since: 24h, 7d, date."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recompute(config_path: Path | None, since: datetime, as_json: bool) -> None:
    """Derive rows again after an update, and say what changed.

    Calls are derived again where their raw exchange is kept (capture.raw = "all"), turns from the
    table. The recorder may run meanwhile.

    \b
    Example:
      agent-telemetry recompute --since 7d
    """
    config = load(config_path)
    from proxy import maintenance
    from proxy.views import changes as view

    calls = asyncio.run(maintenance.recompute(config, since))
    turns = asyncio.run(maintenance.recompute_conversations(config, since))
    if as_json:
        print_json({"calls": view.as_json(calls), "turns": view.turns_as_json(turns)})
    else:
        click.echo(f"{view.as_text(calls)}\n{view.turns_as_text(turns)}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@with_config
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def decode(file: Path, config_path: Path | None, as_json: bool) -> None:
    """Print what the decoders make of one captured exchange.

    FILE holds an exchange as the spool and `agent_raw` keep it (also compressed with zstd), or one
    line of a recording with `request` and `response` in base64.

    \b
    Example:
      agent-telemetry decode exchange.json --json
    """
    from proxy.assemble import Assembler
    from proxy.captured import read
    from proxy.views import row as view

    row = Assembler(load(config_path)).assembled(read(file)).record.as_row()
    click.echo(view.as_json(row) if as_json else view.as_text(row))


for _command in (cli_data.export, cli_data.purge, cli_data.copy, cli_data.doctor):
    main.add_command(_command)


@main.command()
def demo() -> None:
    """See it work, offline: a scripted agent, a fake provider, the real gateway, the rows.

    \b
    Example:
      agent-telemetry demo
    """
    from proxy.demo import run

    asyncio.run(run(click.echo, _show_session))


def _role(config_path: Path | None, fd: int | None, listens: str | None) -> tuple[Config, Any]:
    """Configuration and socket of a process that does one thing."""
    config = load(config_path)
    share_metrics(config)
    if fd is not None:
        return config, socket.socket(fileno=fd)
    if listens is None:
        return config, None
    from proxy.supervise import listen, prepare

    prepare(config)
    return config, listen(getattr(config, listens).listen, f"{listens}.listen")


async def _print_rows(
    config: Config, selection: Selection, last: int, *, follow: bool, as_json: bool
) -> None:
    from proxy.reading import rows
    from proxy.views import lines as line_view
    from proxy.views import row as row_view

    width = shutil.get_terminal_size((PIPE_WIDTH, 0)).columns
    async for row in rows(config, selection, last, follows=follow):
        if as_json:
            click.echo(row_view.as_json(row))
        else:
            colour = None if line_view.is_good(row) else "red"
            click.secho(line_view.line(row, width), fg=colour)


async def _show_session(config: Config, session: str) -> None:
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


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
