"""Wire: a server between a store and PostgreSQL that knows where messages begin.

At a chosen message of a chosen side it cuts the connection before or after it, in its middle, or
lets nothing pass until the store gives up. Messages are counted over both sides of the first
connection only, so that what is tried again afterwards passes.
"""

import asyncio
import contextlib
import shutil
import socket
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

How = Literal["before", "middle", "after", "reset", "stall"]


@dataclass(frozen=True)
class Cut:
    """The `number`th message of a side, counted from 0."""

    side: Literal["client", "server"]
    number: int
    how: How


class MessageWire:
    """`messages` names what passed, per side, by PostgreSQL's type byte."""

    def __init__(self, dsn: str, cut: Cut | None = None) -> None:
        self._real = parse_qs(urlsplit(dsn).query)["host"][0]
        self._directory = Path(tempfile.mkdtemp(prefix="wire-"))
        self.dsn = dsn.replace(f"host={self._real}", f"host={self._directory}")
        self.messages: dict[str, list[str]] = {"client": [], "server": []}
        self.has_cut = False
        self._cut = cut
        self._tasks: set[asyncio.Task] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._opening: set[asyncio.Task] = set()
        self._is_first = True

    async def __aenter__(self) -> "MessageWire":
        where = self._directory / ".s.PGSQL.5432"
        self._server = await asyncio.start_unix_server(self._accepted, where)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for opened in await asyncio.gather(*self._opening, return_exceptions=True):
            if isinstance(opened, tuple):  # also where nobody waited for it any more
                opened[1].transport.abort()
        for writer in self._writers:
            writer.transport.abort()
        shutil.rmtree(self._directory)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)  # a task that is cancelled before it began closes nothing
        self._tasks.add(asyncio.create_task(self._accept(reader, writer)))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):  # the test is over
                await self._connected(reader, writer)
        finally:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_counted, self._is_first = self._is_first, False
        opening = asyncio.create_task(asyncio.open_unix_connection(f"{self._real}/.s.PGSQL.5432"))
        self._opening.add(opening)
        back = await asyncio.shield(opening)
        up = asyncio.create_task(self._relay("client", reader, back[1], is_counted))
        down = asyncio.create_task(self._relay("server", back[0], writer, is_counted))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            for end in (writer, back[1]):
                if self._cut is not None and self._cut.how == "reset":
                    sock = end.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()

    async def _relay(
        self,
        side: Literal["client", "server"],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        is_counted: bool,
    ) -> None:
        is_startup = side == "client"
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                kind = b"" if is_startup else await reader.readexactly(1)
                length = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(length) - 4)
                message, is_startup = kind + length + body, False
                if is_counted and self._is_due(side, message):
                    await self._end(message, reader, writer)
                    return
                writer.write(message)
                await writer.drain()

    def _is_due(self, side: str, message: bytes) -> bool:
        """Count a message; whether the connection is to end here."""
        passed = self.messages[side]
        passed.append(message[:1].decode("latin-1"))
        cut = self._cut
        if cut is None or self.has_cut or (cut.side, cut.number) != (side, len(passed) - 1):
            return False
        self.has_cut = True
        return True

    async def _end(
        self, message: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        how = self._cut.how if self._cut else "before"
        if how == "stall":
            while await reader.read(65536):  # until somebody gives up
                pass
        kept = {"middle": len(message) // 2, "after": len(message)}.get(how, 0)
        writer.write(message[:kept])
        await writer.drain()
