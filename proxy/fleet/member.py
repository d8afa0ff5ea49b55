"""Member: one gateway machine or one recorder of a fleet, as it spoke last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

GATEWAY, RECORDER = "gateway", "recorder"
SILENT_S = 30.0  # who says nothing for so long is not running, or is cut off


@dataclass(frozen=True, slots=True)
class Member:
    """Counts of gateways are those of their spool, of recorders since they started."""

    role: str
    id: str
    host: str
    program: str  # version
    at: datetime
    captured: int = 0
    forwarded: int = 0
    quarantined: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    truncated: int = 0
    disk_bytes: int = 0
    oldest_waiting_at: datetime | None = None
    stored: int = 0  # by a recorder
    in_hand: int = 0

    @property
    def key(self) -> str:
        return f"{self.role}.{self.id}"

    @property
    def waiting(self) -> int:
        """Captured and not in the stream yet."""
        return self.captured - self.forwarded - self.quarantined - sum(self.lost.values())

    @property
    def is_silent(self) -> bool:
        return (datetime.now(UTC) - self.at).total_seconds() > SILENT_S

    def to_bytes(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Member | None:
        """None where the bytes are no member; fields of later versions are left out."""
        try:
            raw: dict[str, Any] = orjson.loads(data)
            known = {k: v for k, v in raw.items() if k in cls.__dataclass_fields__}
            for name in ("at", "oldest_waiting_at"):
                if known.get(name):
                    known[name] = datetime.fromisoformat(known[name])
            return cls(**known)
        except (ValueError, TypeError, AttributeError):
            return None
