"""Environment: the configuration as a file and the environment give it, and what is wrong with it.

TOML file, then environment (`AGENT_TELEMETRY__SECTION__KEY`), the environment winning; the only
module that reads the environment. Every secret `X` can be given as `X_file`. Unknown keys are
errors; no file at all is a valid configuration.

A supervisor reads its plan here and no configuration, so what validates one is imported in `load`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from proxy.config import Config

ENV_PREFIX = "AGENT_TELEMETRY__"
ENV_FILE = "AGENT_TELEMETRY_CONFIG"
_PLAN = "AGENT_TELEMETRY_PLAN"


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """The effective configuration from file and environment.

    `path` wins over `AGENT_TELEMETRY_CONFIG`. Raises ConfigError that names file, key and remedy.
    """
    from pydantic import ValidationError

    from proxy.config import Config

    environ = os.environ if environ is None else environ
    path = path or (Path(environ[ENV_FILE]) if environ.get(ENV_FILE) else None)
    values = _from_file(path) if path else {}
    sources: dict[tuple[str, ...], str] = {}
    _merge_environment(values, environ, sources)
    _read_secret_files(values, path, sources)
    values.setdefault("data_dir", str(_state_dir(environ)))
    values["upstreams"] = _with_built_in(values.get("upstreams", {}), path)
    try:
        return Config(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, path, sources)) from None


def located(error: ConfigError, path: Path | None) -> ConfigError:
    """An error about a key that was read from somewhere, with where: a variable, or the file."""
    key = tuple(str(error).partition(": ")[0].split("."))
    ours = sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX))
    variable = next((name for name in ours if _keys(name[len(ENV_PREFIX) :]) == key), None)
    return ConfigError(f"{variable or path}: {error}") if variable or path else error


def wants_colours() -> bool:
    """Whether a terminal is to be given colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_debugging() -> bool:
    """Whether a developer asked for tracebacks."""
    return bool(os.environ.get("AGENT_TELEMETRY_DEBUG"))


def hand_over(plan: str) -> None:
    """Leave a plan for the program that this process becomes."""
    os.environ[_PLAN] = plan


def handed_over() -> str | None:
    """The plan that was left for this process, once: its children do not find it."""
    return os.environ.pop(_PLAN, None)


def share_metrics(config: Config) -> None:
    """Make this process and its children write their metrics into one directory.

    prometheus-client chooses its kind of value from the environment when it is first imported, so
    this comes before `proxy.metrics`. Raises ConfigError where the directory cannot be made.
    """
    try:
        config.metrics_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"data_dir: {config.data_dir}: {error.strerror}; choose a directory this user can write"
        ) from None
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(config.metrics_dir)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a mark first
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None


def _merge_environment(
    values: dict[str, Any], environ: Mapping[str, str], sources: dict[tuple[str, ...], str]
) -> None:
    if environ.get("DATABASE_URL"):
        _put(values, ("store", "dsn"), environ["DATABASE_URL"], "DATABASE_URL")
        sources["store", "dsn"] = "DATABASE_URL"
    for variable in sorted(environ):
        if not variable.upper().startswith(ENV_PREFIX):
            continue
        keys = _keys(variable[len(ENV_PREFIX) :])
        _put(values, keys, _parsed(keys, environ[variable], variable), variable)
        sources[keys] = variable


def _keys(name: str) -> tuple[str, ...]:
    """SECTION__KEY in small letters; of a project or a model only where it is all in capitals."""
    keys, given = tuple(name.lower().split("__")), name.split("__")
    if keys[0] == "upstreams" and len(keys) > 1:
        return (keys[0], keys[1].replace("_", "-"), *keys[2:])
    if keys[0] in ("projects", "prices") and len(keys) > 1 and not given[1].isupper():
        return (keys[0], given[1], *keys[2:])
    return keys


def _put(values: dict[str, Any], keys: tuple[str, ...], value: Any, variable: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{variable}: {key!r} is a value, not a section")
    values.pop(f"{keys[-1]}_file", None)  # of the configuration's file, over which this wins
    values[keys[-1]] = value


def _parsed(keys: tuple[str, ...], text: str, variable: str) -> Any:
    """Lists and tables as JSON (a list also separated by commas); the rest stays text."""
    if text[:1] in "[{":
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
    if keys[-1] == "client_tokens" and text[:1] == "[":  # else its brackets belonged to the tokens
        raise ConfigError(f'{variable}: is no JSON: write A,B or ["A", "B"]')
    if keys[-1] in ("client_tokens", "hosts", "pii", "servers"):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


SECRETS = (
    ("gateway", "client_tokens"),
    ("store", "dsn"),
    ("admin", "token"),
    ("otel", "headers"),
    ("nats", "password"),
    ("nats", "token"),
)


def _read_secret_files(
    values: dict[str, Any], path: Path | None, sources: dict[tuple[str, ...], str]
) -> None:
    upstreams = values.get("upstreams", {})
    named = upstreams if isinstance(upstreams, dict) else {}
    for *section, key in (*SECRETS, *(("upstreams", name, "api_key") for name in named)):
        table: Any = values
        for part in section:
            table = table.get(part, {}) if isinstance(table, dict) else {}
        file = table.pop(f"{key}_file", None) if isinstance(table, dict) else None
        if file is None:
            continue
        name = (*section, f"{key}_file")
        where = f"{sources.get(name) or path}: {'.'.join(name)}: {file}"
        try:
            text = Path(str(file)).expanduser().read_text(encoding="utf-8-sig").strip()
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
            raise ConfigError(f"{where}: {reason}") from None
        if not text:
            raise ConfigError(f"{where}: is empty; put the secret into it, or leave the key out")
        table[key] = text.split() if key == "client_tokens" else text
        sources[*section, key] = str(file)


def _with_built_in(given: Any, path: Path | None) -> dict[str, Any]:
    from proxy.config import BUILT_IN

    if not isinstance(given, dict) or not all(isinstance(v, dict) for v in given.values()):
        raise ConfigError(f"{path or 'environment'}: upstreams: write tables [upstreams.NAME]")
    merged: dict[str, Any] = {
        name: {"url": url, "dialect": dialect} for name, (url, dialect) in BUILT_IN.items()
    }
    for name, upstream in given.items():
        merged[name] = merged.get(name, {}) | upstream
    return merged


def _state_dir(environ: Mapping[str, str]) -> Path:
    """The XDG base directory specification has relative ones ignored."""
    base = Path(environ.get("XDG_STATE_HOME") or "")
    if not base.is_absolute():
        base = Path("/", environ.get("HOME") or "", ".local/state")
    return base / "agent-telemetry"


_KEY_IN_MESSAGE = re.compile(r"([a-z_]+(?:\.[a-z_]+)?): ")


_MESSAGES = {  # instead of pydantic's, which speak of Python
    "extra_forbidden": "unknown key; config.example.toml lists every key",
    "missing": "is missing; set it",
    "tuple_type": "write a list",
    "dict_type": "write a table",
    "model_type": "write a table",
    "path_type": "write a path",
}


def _explain(error: ValidationError, path: Path | None, sources: dict[tuple[str, ...], str]) -> str:
    """The first problem as one line: source, key, what is wrong, what to do."""
    first = error.errors(include_url=False, include_input=False)[0]
    keys = tuple(str(part) for part in first["loc"])
    named = (v for k, v in sources.items() if keys and keys[: len(k)] == k[: len(keys)])
    variable = next(named, None)
    where = variable or (str(path) if path else "configuration")
    message = first["msg"].removeprefix("Value error, ")
    message = _MESSAGES.get(first["type"], message)
    if key := _KEY_IN_MESSAGE.match(message):  # of a rule that looks at several keys
        keys, message = (*keys, key[1]), message[key.end() :]
    rest = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {'.'.join(keys) or 'settings'}: {message}{rest}"
