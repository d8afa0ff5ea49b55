"""Received: a message of the stream in the hands of a recorder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from proxy.fleet.large import Large
from proxy.fleet.message import Message
from proxy.fleet.publisher import MESSAGE_ID

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.js.api import RawStreamMsg

_NOBODY = UUID(int=0)


@dataclass(slots=True, eq=False)
class Received:
    """A message in hand. Equal only to itself."""

    id: UUID
    sequence: int
    subject: str
    reply: str  # where it is acknowledged; empty: nobody waits for that (`stranded`)
    sent_at: float  # seconds since 1970, the servers' clock
    data: bytes
    large: Large | None = None
    message: Message | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    @property
    def is_stranded(self) -> bool:
        return not self.reply

    @property
    def captured_id(self) -> UUID:
        """Of the captured call: the socket, where this was cut from one."""
        start = self.message.exchange.start if self.message else None
        return start.socket if start and start.socket else self.id

    @classmethod
    def given(cls, message: Msg) -> Received:
        """One that the servers gave us."""
        meta = message.metadata
        at = meta.timestamp.timestamp() if meta.timestamp else time.time()
        id = id_of(message.headers)
        return cls(id, meta.sequence.stream, message.subject, message.reply, at, message.data)

    @classmethod
    def found(cls, message: RawStreamMsg) -> Received:
        """One that was taken by its number."""
        at = message.time.timestamp() if message.time else time.time()
        id, data = id_of(message.headers), message.data or b""
        return cls(id, message.seq or 0, message.subject or "", "", at, data)


def id_of(headers: Mapping[str, str] | None) -> UUID:
    try:
        return UUID((headers or {}).get(MESSAGE_ID, ""))
    except ValueError:
        return _NOBODY
