"""SocketPart: what came of one recorded WebSocket since the last part of it.

The noun between the spool and the cutter. A socket is one captured exchange whose bytes are the
frames of both directions; unlike other exchanges it is handed over while it is open, part by part,
in order, and from its beginning again where the recorder begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.exchange import AnswerHead, End, Start


@dataclass(frozen=True, slots=True)
class SocketPiece:
    """Bytes of one direction as one read delivered them."""

    at_us: int
    is_from_agent: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class SocketPart:
    """`is_last` without `end`: the gateway died while the socket was open."""

    start: Start
    head: AnswerHead | None = None
    pieces: tuple[SocketPiece, ...] = ()
    end: End | None = None
    is_last: bool = False
