"""Config: every setting, what it may be, and how it is shown.

`environment` says where they come from; `config.example.toml` documents each key.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
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
    field_validator,
    model_validator,
)

from proxy import forms

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
    if isinstance(where, Path) or where[0].lower() == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(where[0]).is_loopback
    return False
