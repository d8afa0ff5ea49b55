"""Options that several commands take, and how commands print JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from proxy.environment import ENV_FILE
from proxy.since import instant_of

PIPE_WIDTH = 200  # of a line where no terminal says its own

LINES_MAX = 2**31 - 1

F = TypeVar("F", bound=Callable[..., Any])


def with_config(command: F) -> F:
    """Adds --config; the command receives the path, or None."""
    option = click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar=ENV_FILE,
        metavar="FILE",
        help="Configuration in TOML; default: built-in values and the environment.",
    )
    return option(command)


class _Text(click.ParamType[str]):
    """Text that a database can be asked about; bytes of another encoding are none."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            str(value).encode()
        except UnicodeEncodeError:
            self.fail(f"{value!r} is not UTF-8", param, ctx)
        return str(value)


class _Label(_Text):
    """A session or a project by the name that the agent gave, which its column may cut."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from proxy.store.storable import session_of

        return session_of(super().convert(value, param, ctx)) or ""


TEXT, LABEL = _Text(), _Label()


def instant(context: click.Context, option: click.Parameter, text: str | None) -> datetime | None:
    """The instant that the text of an option means."""
    if text is None:
        return None
    try:
        return instant_of(text, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from None


def print_json(value: Any) -> None:
    """A value for programs."""
    click.echo(json.dumps(value, indent=2, default=str))
