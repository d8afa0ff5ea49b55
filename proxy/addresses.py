"""Addresses: where clients on this machine find the listeners. Pure."""

from __future__ import annotations

from pathlib import Path

from proxy.config import Config, split_listen

SHOWN = ("openai", "anthropic", "gemini")
_SUFFIX = {"openai": "/v1"}


def base_url(address: str) -> str:
    """Where a client on this machine finds a listener, without a path."""
    where = split_listen(address)
    if isinstance(where, Path):
        return f"unix:{where}"
    host, port = where
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def base_urls(config: Config) -> dict[str, str]:
    """Provider → what an agent is given as its base URL, for the best-known ones."""
    base = base_url(config.gateway.listen)
    return {name: f"{base}/{name}{_SUFFIX.get(name, '')}" for name in SHOWN}
