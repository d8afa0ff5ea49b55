"""Whether spans can be sent: the SDK is an extra."""

from __future__ import annotations

from importlib.util import find_spec

from proxy.config import Otel
from proxy.errors import ConfigError

SDK = "opentelemetry.exporter.otlp.proto.http"


def check_installed(settings: Otel) -> None:
    """Raises ConfigError where an endpoint is configured and the SDK is not there."""
    if settings.endpoint and not is_there(SDK):
        raise ConfigError(
            "otel.endpoint: needs the OpenTelemetry SDK: pip install 'agent-telemetry[otel]'"
        )


def is_there(package: str) -> bool:
    """Whether a package could be imported."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
