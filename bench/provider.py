"""A provider that does nothing but answer, much faster than any proxy can ask.

    python -m bench.provider PORT [CERTIFICATE KEY]

One process, httptools on uvloop. A plain call gets the same small completion each time. A streamed
one gets `max_tokens` events at `seed` per second: both are parameters that every proxy passes on.
Each event carries the monotonic time at which it was sent.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
import time
from typing import cast

import httptools
import uvloop

_ANSWER = (
    b'{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"%b"},'
    b'"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":500,"completion_tokens":150,"total_tokens":650}}'
) % (b"The quick brown fox jumps over the lazy dog. " * 17)
_PLAIN = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req-bench\r\n"
    b"Content-Length: %d\r\n\r\n%b"
) % (len(_ANSWER), _ANSWER)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_EVENT = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"bench","choices":[{"index":0,"delta":{"content":" @%d@ and so on"},'
    b'"finish_reason":null}]}\n\n'
)
_LAST = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"bench","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)
_NUMBER = re.compile(rb'"(max_tokens|seed)": ?(\d+)')


class Provider(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._left = 0
        self._next_at = self._period_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        body, self._body = self._body, []
        beginning, end = body[0][:300] if body else b"", body[-1][-300:] if body else b""
        numbers = dict(_NUMBER.findall(beginning + end))
        if b"seed" not in numbers:
            self._send(_PLAIN)
            return
        self._send(_STREAM_HEAD)
        self._left = int(numbers[b"max_tokens"])
        self._period_s = 1 / int(numbers[b"seed"])
        self._next_at = self._loop.time() + self._period_s
        self._loop.call_at(self._next_at, self._tick)

    def _tick(self) -> None:
        if self._transport is None:
            return
        if self._left == 0:
            self._send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(_LAST), _LAST))
            return
        event = _EVENT % time.monotonic_ns()
        self._send(b"%x\r\n%b\r\n" % (len(event), event))
        self._left -= 1
        self._next_at += self._period_s
        self._loop.call_at(self._next_at, self._tick)

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def serve(port: int, files: list[str]) -> None:
    tls = None
    if files:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*files)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", port, ssl=tls, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2:]))
