"""Whether spans can be sent: the SDK is an extra."""

from __future__ import annotations

from importlib.util import find_spec

from proxy.config import Otel
from proxy.errors import ConfigError


def check_installed(settings: Otel) -> None:
    """Raises ConfigError where an endpoint is configured and the SDK is not there."""
    if settings.endpoint and not _is_there("opentelemetry.exporter.otlp.proto.http"):
        raise ConfigError(
            "otel.endpoint: needs the OpenTelemetry SDK: pip install 'agent-telemetry[otel]'"
        )


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
