"""Upstream: connections to one configured provider, and how they are made.

Idle connections are kept for 15 s, checked for an end of file before use, and never handed to
another upstream. TLS is verified unless the configuration says otherwise. An egress proxy is asked
by CONNECT, so it sees neither key nor content of an https upstream.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import socket
import ssl
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiohappyeyeballs

from proxy.config import Config
from proxy.config import Gateway as GatewayConfig
from proxy.config import Upstream as UpstreamConfig
from proxy.errors import ConfigError
from proxy.wire.answer import HeadLimits
from proxy.wire.connection import Connection
from proxy.wire.faults import UpstreamTimeout, UpstreamUnreachable

IDLE_MAX_S = 15.0  # providers' load balancers close after 60 s and more; ours must be first
IDLE_MAX = 256  # kept connections of one upstream
HEAD_FACTOR = 4  # a whole head may be this many times max_header_bytes
_CONNECT_HEAD_MAX = 16_384

_log = logging.getLogger("proxy.wire")


class Upstream:
    """A pool of connections to one origin."""

    def __init__(
        self,
        name: str,
        config: UpstreamConfig,
        tls: ssl.SSLContext | None,
        limits: HeadLimits,
        gateway: GatewayConfig,
    ) -> None:
        parts = urlsplit(config.url)
        self.name = name
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = tls
        self._egress = config.http_proxy
        self._limits = limits
        self._connect_s = gateway.connect_timeout_s
        self._idle_s = gateway.idle_timeout_s
        self._idle: list[Connection] = []
        self._sweeper: asyncio.TimerHandle | None = None

    def take_idle(self) -> Connection | None:
        """A kept connection that is still good, the latest first."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            is_fresh = now - connection.idle_since < IDLE_MAX_S
            if is_fresh and connection.is_open and not connection.has_unread:
                return connection
            connection.abort()
        return None

    def give_back(self, connection: Connection) -> None:
        """End an exchange: keep the connection if it is good, close it otherwise."""
        if not connection.finish():
            return
        if len(self._idle) >= IDLE_MAX:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(IDLE_MAX_S, self._sweep)

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self._idle:
            self._idle.pop().abort()

    async def connect(self) -> Connection:
        """A new connection. Raises UpstreamUnreachable or UpstreamTimeout."""
        try:
            async with asyncio.timeout(self._connect_s):
                return await self._connect()
        except TimeoutError as error:
            raise UpstreamTimeout(
                f"no connection to upstream {self.name} within {self._connect_s:g} s; "
                "check the network, or upstreams.*.http_proxy"
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise UpstreamUnreachable(
                f"the certificate of upstream {self.name} was refused "
                f"({error.verify_message}); check its url, or give its ca_file"
            ) from error
        except ssl.SSLError as error:
            raise UpstreamUnreachable(
                f"no TLS with upstream {self.name} ({error.reason or 'handshake failed'}); "
                "check its url"
            ) from error
        except OSError as error:
            raise UpstreamUnreachable(
                f"cannot connect to upstream {self.name} ({_reason(error)}); check its url and "
                "the network"
            ) from error

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._egress is None:
            raw = await _dial(self._host, self._port)
        else:
            raw = await self._dial_through(self._egress)
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self._limits, self._idle_s),
                sock=raw,
                ssl=self._tls,
                server_hostname=self._host if self._tls else None,
            )
        except BaseException:
            raw.close()
            raise
        return connection

    async def _dial_through(self, egress: str) -> socket.socket:
        parts = urlsplit(egress)
        raw = await _dial(parts.hostname or "", parts.port or 80)
        try:
            await self._ask_for_tunnel(raw, parts.username, parts.password)
        except BaseException:
            raw.close()
            raise
        return raw

    async def _ask_for_tunnel(
        self, raw: socket.socket, user: str | None, password: str | None
    ) -> None:
        """CONNECT, RFC 9110 §9.3.6. Nothing follows the proxy's head before we speak."""
        loop = asyncio.get_running_loop()
        where = f"[{self._host}]" if ":" in self._host else self._host
        lines = [f"CONNECT {where}:{self._port} HTTP/1.1", f"Host: {where}:{self._port}"]
        if user is not None:
            pair = f"{unquote(user)}:{unquote(password or '')}".encode()
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}")
        await loop.sock_sendall(raw, "\r\n".join([*lines, "", ""]).encode("latin-1"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = await loop.sock_recv(raw, 1)  # not a byte of the tunnel may be swallowed
            if not piece or len(head) > _CONNECT_HEAD_MAX:
                raise UpstreamUnreachable("the egress proxy (http_proxy) did not answer CONNECT")
            head += piece
        status = head.split(b" ", 2)[1:2]
        if not status or not status[0].startswith(b"2"):
            code = status[0][:3].decode("ascii", "replace") if status else "nothing"
            raise UpstreamUnreachable(
                f"the egress proxy (http_proxy) refused the way to upstream {self.name} with {code}"
            )

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - IDLE_MAX_S
        for connection in self._idle:
            if connection.idle_since <= oldest:
                connection.abort()
        self._idle = [c for c in self._idle if c.is_open]
        self._sweeper = loop.call_later(IDLE_MAX_S / 3, self._sweep) if self._idle else None


def upstreams_of(config: Config) -> dict[str, Upstream]:
    """A pool per configured upstream. Raises ConfigError where a ca_file cannot be used."""
    gateway = config.gateway
    limits = limits_of(gateway)
    shared: dict[tuple[Path | None, bool], ssl.SSLContext] = {}  # loading the CAs takes 20 ms
    pools = {}
    for name, upstream in config.upstreams.items():
        kind = (upstream.ca_file, upstream.insecure)
        if upstream.url.startswith("https:") and kind not in shared:
            shared[kind] = _tls(name, upstream)
        tls = shared[kind] if upstream.url.startswith("https:") else None
        pools[name] = Upstream(name, upstream, tls, limits, gateway)
    return pools


def limits_of(gateway: GatewayConfig) -> HeadLimits:
    """What is accepted of a head, an agent's or a provider's."""
    field_bytes_max = gateway.max_header_bytes
    return HeadLimits(field_bytes_max * HEAD_FACTOR, field_bytes_max, gateway.max_headers)


def _tls(name: str, upstream: UpstreamConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=upstream.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"upstreams.{name}.ca_file: {upstream.ca_file}: {error.strerror or error}; "
            "give a file of certificates in PEM"
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    if upstream.insecure:
        _log.warning("upstreams.%s.insecure: its certificate is not verified", name)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _dial(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    raw = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=0.25)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return raw


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its name is not known to DNS"
    return os.strerror(error.errno) if error.errno else "no address answered"
