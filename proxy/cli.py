"""Command line: dispatch and print, no logic.

Exit codes: 0 done, 1 it did not work, 2 the command or the configuration is wrong. Errors are one
line on stderr. Roles import what they run only when they run, so that small commands start fast
and metrics find their shared directory.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Iterator
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import click

from proxy import __version__, cli_data, cli_read, cli_spool
from proxy.config import Config, effective
from proxy.environment import is_debugging, load, share_metrics
from proxy.errors import ProxyError
from proxy.log import describe
from proxy.options import F, instant, print_json, with_config


class _Commands(click.Group):
    """The command group; turns every known error into one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # of letters that it does not have
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
        except (KeyboardInterrupt, click.Abort, asyncio.CancelledError):
            sys.exit(130)
        except Exception as error:
            if is_debugging():
                raise
            if isinstance(error, OSError) and error.strerror:
                _fail(f"{error.filename or 'the output'}: {error.strerror}", 1)
            _fail(f"internal error: {describe(error)} (AGENT_TELEMETRY_DEBUG=1 shows more)", 1)
        sys.exit(0)

    # That the reader of what is printed, such as head, has gone is no fault. In these two, and not
    # in `main`: click takes it for a failure there.

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments; --help and --version are printed here."""
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError:
            _without_reader()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _without_reader()


def _without_reader() -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise click.exceptions.Exit(0)


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
    from proxy.launch import launch

    launch(config, config_path)


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
        from proxy.launch import launch

        launch(sidecar, config_path, is_sidecar=True)
    config, sock = _role(config_path, fd, "gateway")
    from proxy.gateway_app import run_gateway

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
    from proxy.reading import dsn_of, remedied
    from proxy.store.migrate import migrate as bring_up

    with remedied(config):
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
    from proxy.launch import validate

    validate(config, config_path)
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


for _command in (
    *(cli_read.tail, cli_read.replay, cli_read.report, cli_spool.spool),
    *(cli_data.export, cli_data.purge, cli_data.copy, cli_data.doctor),
):
    main.add_command(_command)


@main.command()
def demo() -> None:
    """See it work, offline: a scripted agent, a fake provider, the real gateway, the rows.

    \b
    Example:
      agent-telemetry demo
    """
    from proxy.demo import run

    asyncio.run(run(click.echo, cli_read.show_session))


def _role(config_path: Path | None, fd: int | None, listens: str | None) -> tuple[Config, Any]:
    """Configuration and socket of a process that does one thing."""
    config = load(config_path)
    share_metrics(config)
    if fd is not None:
        return config, socket.socket(fileno=fd)
    if listens is None:
        return config, None
    from proxy.launch import listen, prepare

    prepare(config)
    return config, listen(getattr(config, listens).listen, f"{listens}.listen")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
