"""Settings of `[otel]`: what is understood, and what is refused with the remedy."""

import pytest

from proxy.config import Otel
from proxy.environment import load
from proxy.errors import ConfigError
from proxy.otel.installed import check_installed, is_there

HOME = {"HOME": "/"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ENDPOINT", "collector:4318", "http://HOST:4318"),
        ("ENDPOINT", "ftp://collector", "http://HOST:4318"),
        ("ENDPOINT", "http://collector:many", "http://HOST:4318"),
        ("HEADERS", "sesame", "NAME=VALUE"),
        ("HEADERS", "=sesame", "NAME=VALUE"),
        ("SERVICE_NAME", "", "at least 1"),
        ("TIMEOUT_S", "0", "greater than 0"),
    ],
)
def test_what_cannot_be_used_is_named(name, value, said):
    with pytest.raises(ConfigError) as caught:
        load(None, HOME | {f"AGENT_TELEMETRY__OTEL__{name}": value})
    assert f"otel.{name.lower()}" in str(caught.value)
    assert said in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_headers_are_those_of_the_conventions():
    given = Otel(headers="Authorization=Bearer%20se,same=x=y", endpoint="https://c:4318/base/")
    assert given.header_fields == {"authorization": "Bearer se", "same": "x=y"}
    assert given.endpoint == "https://c:4318/base"
    assert Otel().header_fields == {}


def test_the_sdk_is_asked_for_only_where_it_is_needed(monkeypatch):
    check_installed(Otel(endpoint="http://c:4318"))
    assert not is_there("opentelemetry.no.such.package")
    monkeypatch.setattr("proxy.otel.installed.SDK", "no.such.package")
    check_installed(Otel())
    with pytest.raises(ConfigError, match=r"agent-telemetry\[otel\]"):
        check_installed(Otel(endpoint="http://c:4318"))
