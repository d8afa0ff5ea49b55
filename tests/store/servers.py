"""A server between a store and PostgreSQL that breaks the connection at a chosen moment."""

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class FaultyWire:
    """Relays bytes to PostgreSQL; after `budget` bytes in all it cuts, or `stalls` for ever."""

    def __init__(self, dsn, *, budget=None, stalls=False):
        self._real = parse_qs(urlsplit(dsn).query)["host"][0]
        self._directory = Path(tempfile.mkdtemp(prefix="wire-"))
        self.dsn = dsn.replace(f"host={self._real}", f"host={self._directory}")
        self.budget = budget
        self.passed = 0
        self._stalls = stalls
        self._tasks = set()

    async def __aenter__(self):
        self._server = await asyncio.start_unix_server(
            self._accept, self._directory / ".s.PGSQL.5432"
        )
        return self

    async def __aexit__(self, *exception):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._directory)

    async def _accept(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        back_reader, back_writer = await asyncio.open_unix_connection(f"{self._real}/.s.PGSQL.5432")
        up = asyncio.create_task(self._relay(reader, back_writer))
        down = asyncio.create_task(self._relay(back_reader, writer))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            for end in (writer, back_writer):
                end.transport.abort()

    async def _relay(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                kept = len(data) if self.budget is None else max(0, self.budget - self.passed)
                self.passed += len(data)
                writer.write(data[:kept])
                await writer.drain()
                if kept < len(data):
                    if self._stalls:
                        await asyncio.Event().wait()
                    return
