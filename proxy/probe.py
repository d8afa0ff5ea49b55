"""Probe: whether a listener of this program answers, asked over its own socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

from proxy.config import split_listen

_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_REQUEST = b"GET /telemetry/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def gateway_answers(listen: str, timeout_s: float = 2.0) -> bool:
    """Whether the gateway at `gateway.listen` says that it is well; never raises."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await _connect(listen)
            try:
                writer.write(_REQUEST)
                return await reader.readexactly(12) == b"HTTP/1.1 200"
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False


async def _connect(listen: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    where = split_listen(listen)
    if isinstance(where, Path):
        return await asyncio.open_unix_connection(where)
    host, port = where
    return await asyncio.open_connection(_LOCAL.get(host, host), port)
