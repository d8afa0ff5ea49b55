"""Config: every setting, where it comes from, and what is wrong with it.

TOML file, then environment (`AGENT_TELEMETRY__SECTION__KEY`), the environment winning; the only
module that reads the environment. Every secret `X` can be given as `X_file`. Unknown keys are
errors; no file at all is a valid configuration. `config.example.toml` documents each key.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from proxy import forms
from proxy.errors import ConfigError

ENV_PREFIX = "AGENT_TELEMETRY__"
ENV_FILE = "AGENT_TELEMETRY_CONFIG"
MIB = 1024 * 1024

Content = Literal["full", "metadata"]
Dialect = Literal["openai", "anthropic", "gemini", "ollama", "bedrock", "cohere"]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]
Days = Annotated[int, Field(ge=1, le=36_500)]
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Listen = Annotated[str, AfterValidator(forms.listen_address)]
FilePath = Annotated[Path, BeforeValidator(forms.file_path)]
Credential = Annotated[SecretStr | None, AfterValidator(forms.credential)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
RESERVED_NAMES = frozenset({"p", "s", "t", "v1", "v1beta", "telemetry"})

BUILT_IN: dict[str, tuple[str, Dialect]] = {
    "openai": ("https://api.openai.com", "openai"),
    "anthropic": ("https://api.anthropic.com", "anthropic"),
    "gemini": ("https://generativelanguage.googleapis.com", "gemini"),
    "groq": ("https://api.groq.com", "openai"),
    "mistral": ("https://api.mistral.ai", "openai"),
    "deepseek": ("https://api.deepseek.com", "openai"),
    "openrouter": ("https://openrouter.ai", "openai"),
    "xai": ("https://api.x.ai", "openai"),
    "cohere": ("https://api.cohere.com", "cohere"),
    "ollama": ("http://127.0.0.1:11434", "ollama"),
}
KEY_HEADERS: dict[str, str] = {"anthropic": "x-api-key", "gemini": "x-goog-api-key"}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Gateway(Section):
    listen: Listen = "127.0.0.1:8080"
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    client_tokens: tuple[SecretStr, ...] = ()
    allow_open: bool = False
    connect_timeout_s: Seconds = 10
    idle_timeout_s: Seconds = 600
    header_timeout_s: Seconds = 30
    drain_timeout_s: Annotated[float, Field(ge=0, le=86_400)] = 30
    max_header_bytes: Annotated[int, Field(ge=8192, le=16 * MIB)] = 65_536
    max_headers: Annotated[int, Field(ge=16, le=65_536)] = 512
    max_connections: Count = 10_000
    id_header: bool = True

    @field_validator("client_tokens")
    @classmethod
    def _tokens(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(map(forms.credential, value)):
            raise ValueError("holds an empty token: leave the list empty for none")
        return value

    @model_validator(mode="after")
    def _open_only_on_purpose(self) -> Gateway:
        if not is_loopback(self.listen) and not self.client_tokens and not self.allow_open:
            raise ValueError(
                f"listen: {self.listen} is reachable from other machines; set client_tokens, "
                "or allow_open = true if that is meant"
            )
        return self


class Upstream(Section):
    url: Annotated[str, AfterValidator(forms.provider_url)]
    dialect: Dialect = "openai"
    api_key: Credential = None
    api_key_header: Annotated[str, AfterValidator(forms.header_name)] | None = None
    aws_region: str | None = None
    ca_file: FilePath | None = None
    insecure: bool = False
    http_proxy: Annotated[str, AfterValidator(forms.proxy_url)] | None = None

    @property
    def key_header(self) -> str:
        """The header that carries the key: api_key_header, else the dialect's (lower case)."""
        return (self.api_key_header or KEY_HEADERS.get(self.dialect, "authorization")).lower()


class Capture(Section):
    enabled: bool = True
    content: Content = "full"
    max_body_bytes: Annotated[int, Field(ge=1024, le=200 * MIB)] = 64 * MIB
    raw: Literal["off", "quarantine", "all"] = "quarantine"
    media_bytes: Count = 65_536


class Project(Section):
    content: Content | None = None


class Spool(Section):
    dir: FilePath | None = None
    max_bytes: Annotated[int, Field(ge=MIB)] = 10 * 1024 * MIB
    when_full: Literal["forward", "refuse"] = "forward"
    sync: Literal["process", "power"] = "process"
    transport: Literal["local", "nats"] = "local"


class Nats(Section):
    """NATS JetStream between gateways and recorders, where spool.transport is "nats"."""

    servers: Annotated[tuple[str, ...], Field(min_length=1)] = ("nats://127.0.0.1:4222",)
    credentials_file: FilePath | None = None
    user: str | None = None
    password: SecretStr | None = None
    token: SecretStr | None = None
    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    stream: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "AGENT_TELEMETRY"
    subject_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")] = (
        "agent_telemetry"
    )
    replicas: Annotated[int, Field(ge=1, le=5)] = 3
    max_bytes: Annotated[int, Field(ge=MIB)] = 10 * 1024 * MIB
    duplicate_window_s: Seconds = 120
    ack_wait_s: Annotated[float, Field(ge=1, le=3600)] = 30

    @field_validator("servers")
    @classmethod
    def _servers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            parts = urlsplit(url)
            is_url = (
                parts.scheme in ("nats", "tls") and parts.hostname and forms.has_port_number(parts)
            )
            if not is_url or parts.username or parts.password:
                raise ValueError(
                    "write each as nats://HOST:PORT or tls://HOST:PORT, without user; "
                    "see nats.user, nats.token and nats.credentials_file"
                )
        return value

    @model_validator(mode="after")
    def _pairs(self) -> Nats:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file: give nats.cert_file and nats.key_file together")
        if (self.user is None) != (self.password is None):
            raise ValueError("user: give nats.user and nats.password together")
        return self


class Store(Section):
    dsn: SecretStr | None = None
    migrate: bool = True
    batch_rows: Annotated[int, Field(ge=1, le=100_000)] = 500
    batch_delay_ms: Annotated[int, Field(ge=1, le=60_000)] = 200
    history: Literal["full", "shared"] = "full"
    partitions: bool = False
    retention_days: Days | None = None
    payload_retention_days: Days | None = None

    @model_validator(mode="after")
    def _are_consistent(self) -> Store:
        if self.partitions and self.history != "shared":
            raise ValueError('partitions: needs history = "shared"; a full row holds its payload')
        rows, payload = self.retention_days, self.payload_retention_days
        if rows is not None and payload is not None and payload >= rows:
            raise ValueError(f"payload_retention_days: must be less than retention_days ({rows})")
        return self

    @field_validator("dsn")
    @classmethod
    def _dsn(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        forms.postgres_dsn(value.get_secret_value())
        return value


class Redaction(Section):
    enabled: bool = True
    rules: tuple[dict[str, str], ...] = ()
    pii: tuple[Literal["email", "phone", "card", "iban", "ip"], ...] = ()


class Turns(Section):
    idle_s: Seconds = 600
    loop_repeats: Annotated[int, Field(ge=2)] = 3
    failure_rounds: Count = 2
    silent_rounds: Count = 3
    round_cap: Count | None = None


class Tokens(Section):
    estimate: bool = True


class Price(Section):
    """US dollars per million tokens."""

    input: Dollars
    output: Dollars
    cached: Dollars | None = None
    cache_write: Dollars | None = None


class Admin(Section):
    listen: Listen = "127.0.0.1:8081"
    token: Credential = None
    hosts: Annotated[tuple[str, ...], AfterValidator(forms.host_names)] = ()
    metrics_open: bool = False


class Otel(Section):
    """Spans and measurements to an OpenTelemetry endpoint (OTLP over HTTP)."""

    endpoint: str | None = None
    headers: SecretStr | None = None
    content: bool = False
    service_name: Annotated[str, Field(min_length=1)] = "agent-telemetry"
    timeout_s: Seconds = 10

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        is_url = (
            parts.scheme in ("http", "https") and parts.hostname and forms.has_port_number(parts)
        )
        if value and not is_url:
            raise ValueError("write it as http://HOST:4318 or https://…; /v1/traces is added")
        return value.rstrip("/") if value else None

    @field_validator("headers")
    @classmethod
    def _headers(cls, value: SecretStr | None) -> SecretStr | None:
        fields = value.get_secret_value().split(",") if value else []
        if not all(name.strip() and sign for name, sign, _ in (f.partition("=") for f in fields)):
            # The value is never quoted: it holds a key.
            raise ValueError("write them as NAME=VALUE,NAME=VALUE")
        return value

    @property
    def header_fields(self) -> dict[str, str]:
        """Names, in lower case, and values; percent-encoding undone, as in OTEL_…_HEADERS."""
        text = self.headers.get_secret_value() if self.headers else ""
        pairs = (field.partition("=") for field in text.split(",") if field)
        return {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs}


class Log(Section):
    format: Literal["auto", "console", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    content: bool = False


class Config(Section):
    """The effective configuration. Built by `load`, handed down, never changed."""

    data_dir: FilePath
    gateway: Gateway = Field(default_factory=Gateway)
    upstreams: dict[Name, Upstream] = Field(default_factory=dict)
    capture: Capture = Field(default_factory=Capture)
    projects: dict[str, Project] = Field(default_factory=dict)
    spool: Spool = Field(default_factory=Spool)
    nats: Nats = Field(default_factory=Nats)
    store: Store = Field(default_factory=Store)
    redaction: Redaction = Field(default_factory=Redaction)
    turns: Turns = Field(default_factory=Turns)
    tokens: Tokens = Field(default_factory=Tokens)
    prices: dict[str, Price] = Field(default_factory=dict)
    admin: Admin = Field(default_factory=Admin)
    otel: Otel = Field(default_factory=Otel)
    log: Log = Field(default_factory=Log)

    @field_validator("upstreams")
    @classmethod
    def _names(cls, value: dict[str, Upstream]) -> dict[str, Upstream]:
        for name in value:
            if name in RESERVED_NAMES:
                raise ValueError(f"{name!r} is a reserved name: choose another")
        return value

    @model_validator(mode="after")
    def _admin_token(self) -> Config:
        is_open = self.gateway.allow_open or self.admin.token or is_loopback(self.admin.listen)
        if not is_open:
            raise ValueError("admin.token: required where admin.listen is not loopback")
        return self

    @property
    def spool_dir(self) -> Path:
        return self.spool.dir or self.data_dir / "spool"

    @property
    def metrics_dir(self) -> Path:
        return self.data_dir / "metrics"

    @property
    def dsn(self) -> str | None:
        """The external database's connection string; None: the embedded one."""
        return self.store.dsn.get_secret_value() if self.store.dsn else None


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """The effective configuration from file and environment.

    `path` wins over `AGENT_TELEMETRY_CONFIG`. Raises ConfigError that names file, key and remedy.
    """
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


def is_debugging() -> bool:
    """Whether a developer asked for tracebacks."""
    return bool(os.environ.get("AGENT_TELEMETRY_DEBUG"))


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


def effective(config: Config) -> dict[str, Any]:
    """Every key with its value, secrets masked, as plain JSON values."""
    masked: dict[str, Any] = json.loads(config.model_dump_json())
    masked["spool"]["dir"] = str(config.spool_dir)
    if config.dsn:
        masked["store"]["dsn"] = forms.mask_url(config.dsn)
    for upstream in masked["upstreams"].values():
        if upstream["http_proxy"]:
            upstream["http_proxy"] = forms.mask_url(upstream["http_proxy"])
    return masked


def split_listen(listen: str) -> tuple[str, int] | Path:
    """`host:port` as a pair, `unix:PATH` as a path. IPv6 hosts stand in brackets."""
    if listen.startswith("unix:"):
        return Path(listen[5:])
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(listen: str) -> bool:
    where = split_listen(listen)
    if isinstance(where, Path) or where[0] == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(where[0]).is_loopback
    return False


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
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
        keys = tuple(variable[len(ENV_PREFIX) :].lower().split("__"))
        if keys[0] == "upstreams" and len(keys) > 1:
            keys = (keys[0], keys[1].replace("_", "-"), *keys[2:])
        _put(values, keys, _parsed(keys, environ[variable]), variable)
        sources[keys] = variable


def _put(values: dict[str, Any], keys: tuple[str, ...], value: Any, variable: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{variable}: {key!r} is a value, not a section")
    values.pop(f"{keys[-1]}_file", None)  # of the configuration's file, over which this wins
    values[keys[-1]] = value


def _parsed(keys: tuple[str, ...], text: str) -> Any:
    """Lists and tables as JSON (a list also separated by commas); the rest stays text."""
    if text[:1] in "[{":
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
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
            text = Path(str(file)).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
            raise ConfigError(f"{where}: {reason}") from None
        if not text:
            raise ConfigError(f"{where}: is empty; put the secret into it, or leave the key out")
        table[key] = text.split() if key == "client_tokens" else text
        sources[*section, key] = str(file)


def _with_built_in(given: Any, path: Path | None) -> dict[str, Any]:
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


def _explain(error: ValidationError, path: Path | None, sources: dict[tuple[str, ...], str]) -> str:
    """The first problem as one line: source, key, what is wrong, what to do."""
    first = error.errors(include_url=False, include_input=False)[0]
    keys = tuple(str(part) for part in first["loc"])
    named = (v for k, v in sources.items() if keys and keys[: len(k)] == k[: len(keys)])
    variable = next(named, None)
    where = variable or (str(path) if path else "configuration")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown key; config.example.toml lists every key"
    elif first["type"] == "missing":
        message = "is missing; set it"
    if key := _KEY_IN_MESSAGE.match(message):  # of a rule that looks at several keys
        keys, message = (*keys, key[1]), message[key.end() :]
    rest = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {'.'.join(keys) or 'settings'}: {message}{rest}"
