"""Forms: how single values of the configuration are written. Pure: nothing is opened or asked.

Each check returns the value in its usual form, or raises ValueError that says how to write it. No
message quotes a value that may hold a secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

_PRINTED = re.compile(r"[!-~]+")  # ASCII without blanks
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Fields that say where a request ends or goes; a key in one of them would break every call.
_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade"})
_FRAMING |= {"te", "trailer", "expect", "keep-alive", "proxy-connection"}


def listen_address(value: str) -> str:
    """`HOST:PORT` or `unix:/PATH`."""
    if value.startswith("unix:/"):
        return value
    host, _, port = value.rpartition(":")
    is_port = port.isascii() and port.isdigit() and int(port) <= 65535
    if not is_port or not (_HOST.fullmatch(host) or _is_ipv6(host)):
        raise ValueError("write it as HOST:PORT or unix:/PATH")
    return value


def provider_url(value: str) -> str:
    """An upstream's address: no credentials, no query, no slash at its end."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write it as http://HOST[:PORT][/PATH] or https://…")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError("no user, query or fragment; give a key as api_key")
    if not has_port_number(parts):
        raise ValueError("the port must be a number")
    if not _PRINTED.fullmatch(value):
        raise ValueError("no blanks, and ASCII only: percent-encode what is in the path")
    return f"{parts.scheme}{value[len(parts.scheme) :]}".rstrip("/")


def proxy_url(value: str) -> str:
    """An egress proxy's address; it may hold a user and a password."""
    parts = urlsplit(value)
    if parts.scheme != "http" or not parts.hostname or not has_port_number(parts):
        raise ValueError("write it as http://HOST:PORT")
    return value


def postgres_dsn(value: str) -> str:
    """A connection string of PostgreSQL. It may name several hosts, as libpq's may."""
    is_url = value.startswith(("postgresql://", "postgres://")) and " " not in value
    hosts = urlsplit(value).netloc.rpartition("@")[2].split(",") if is_url else ()
    if not is_url or not all(has_port_number(urlsplit(f"//{host}")) for host in hosts):
        # A part of the password may stand where the port should.
        raise ValueError(
            "write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with / # @ and blanks "
            "in the password percent-encoded"
        )
    return value


def header_name(value: str) -> str:
    """The name of the header that carries a key."""
    if not _FIELD_NAME.fullmatch(value) or value.lower() in _FRAMING:
        raise ValueError("write the name of a header that may carry a key, such as x-api-key")
    return value


def credential(value: SecretStr | None) -> SecretStr | None:
    """What is sent in a header. The empty text, as of a variable set to nothing, is none."""
    text = value.get_secret_value() if value is not None else ""
    if not text.isprintable():
        raise ValueError("holds a line break or another control character")
    return value if text else None


def host_names(values: Iterable[str]) -> tuple[str, ...]:
    """Names or addresses as a Host header bears them, without port."""
    names = tuple(value.strip("[]").lower() for value in values)
    if not all(_HOST.fullmatch(name) or _is_ipv6(name) for name in names):
        raise ValueError("write names without scheme and port, such as telemetry.example.com")
    return names


def file_path(value: object) -> object:
    """A path as text; `~` is the home directory, as in a shell. Other kinds are left alone."""
    if not isinstance(value, str):
        return value
    if not value:
        raise ValueError("is empty; leave it out for the default")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("~ has no directory here: write the whole path") from None


def has_port_number(parts: SplitResult) -> bool:
    """Whether the port, if there is one, is a number that ports have."""
    try:
        _ = parts.port
    except ValueError:
        return False
    return True


def mask_url(url: str) -> str:
    """A connection string or a proxy's address without its password."""
    masked = re.sub(r"(://[^/?#@:]*):[^/?#]*@", r"\1:***@", url)
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", masked)


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host.strip("[]"))
    except ValueError:
        return False
    return True
