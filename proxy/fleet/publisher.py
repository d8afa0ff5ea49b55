"""Publisher: messages into the stream. What it returns from has been stored by a replicated stream.

A message over the servers' limit goes through the object store first; the message itself is then
empty and its subject names the object.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from uuid import UUID

from proxy.config import Nats
from proxy.errors import StreamUnavailable
from proxy.fleet.connection import Connection, translated
from proxy.fleet.large import LargeStore
from proxy.fleet.subjects import Subjects

ACK_S = 5.0
REWRITE_S = 1800.0
HEADERS_BYTES = 512  # what we and the client put around a payload, at most
MESSAGE_ID = "Nats-Msg-Id"


@dataclass(frozen=True, slots=True)
class Packed:
    """A message, ready to be sent."""

    id: UUID
    project: str | None
    is_part: bool
    data: bytes


class Publisher:
    """Sends to one stream."""

    def __init__(self, connection: Connection, settings: Nats) -> None:
        self._connection = connection
        self._stream = settings.stream
        self._subjects = Subjects(settings.subject_prefix)
        self._large = LargeStore(connection, settings)
        self._written: dict[UUID, float] = {}  # objects whose message the stream has not taken yet

    async def publish(self, packed: Packed) -> None:
        """Return once the stream has it. Sent twice, it is there once, within the window.

        Raises StreamUnavailable or StreamMisconfigured.
        """
        if not self._connection.is_usable:  # the client would keep it, and each further try too
            raise StreamUnavailable("NATS: not connected")
        subject = self._subjects.message(packed.project, is_part=packed.is_part)
        data = packed.data
        if len(data) + HEADERS_BYTES > self._connection.payload_bytes_max:
            subject = self._subjects.message(
                packed.project, is_part=packed.is_part, large=packed.id
            )
            await self._put(packed.id, data)
            data = b""
        with translated():
            await self._connection.js.publish(
                subject,
                data,
                timeout=ACK_S,
                stream=self._stream,
                headers={MESSAGE_ID: str(packed.id)},
            )
        self._written.pop(packed.id, None)

    async def _put(self, id: UUID, data: bytes) -> None:
        """Write the object, unless it was a moment ago: a stream that is full refuses for long."""
        now = time.monotonic()
        if now > self._written.get(id, -math.inf) + REWRITE_S:
            await self._large.put(id, data)
            self._written[id] = now
