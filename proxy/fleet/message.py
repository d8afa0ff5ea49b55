"""Message: one exchange as it travels from a sidecar to a recorder.

A zstd frame with a checksum, which holds sections one after the other:

    kind u8 · at_us u64 · length u32 · payload        big-endian

    S  Start (JSON)             exactly one, the first
    Q  bytes of the request     none or one
    H  AnswerHead (JSON)        none or one
    R  bytes of the answer      any number, with the instant of each
    E  End (JSON)               none where the gateway died
    P  a problem, UTF-8         any number: what the reader of the spool could not read

The version is not in the message but in its subject (`subjects`), so that a recorder never has to
open what it does not know. Whoever changes what is written here, or a field of the nouns, raises
`subjects.VERSION`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import zstandard

from proxy.exchange import AnswerHead, End, Exchange, Piece, Start

MESSAGE_BYTES_MAX = 1024 * 1024 * 1024  # unpacked; bodies are kept up to 200 MiB each
_LEVEL = 1
_SECTION = struct.Struct(">BQI")
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, struct.error, zstandard.ZstdError)


class Unreadable(Exception):
    """The bytes are no message of this version."""


@dataclass(frozen=True, slots=True)
class Message:
    """An exchange, and what could not be read of it."""

    exchange: Exchange
    problems: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        packer = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        return packer.compress(b"".join(self._sections()))

    @classmethod
    def from_bytes(cls, data: bytes) -> Message:
        """Raises Unreadable."""
        try:
            plain = zstandard.decompress(data, max_output_size=MESSAGE_BYTES_MAX)
            return _joined(_split(plain))
        except _UNREADABLE as error:
            raise Unreadable(type(error).__name__) from None

    def _sections(self) -> Iterator[bytes]:
        exchange = self.exchange
        yield from _section(b"S", exchange.start.to_bytes())
        if exchange.request:
            yield from _section(b"Q", exchange.request)
        if exchange.head is not None:
            yield from _section(b"H", exchange.head.to_bytes())
        for piece in exchange.response:
            yield from _section(b"R", piece.data, piece.at_us)
        if exchange.end is not None:
            yield from _section(b"E", exchange.end.to_bytes())
        for problem in self.problems:
            yield from _section(b"P", problem.encode("utf-8", "replace"))


def _section(kind: bytes, payload: bytes, at_us: int = 0) -> tuple[bytes, bytes]:
    return _SECTION.pack(kind[0], at_us, len(payload)), payload


def _split(plain: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    at = 0
    while at < len(plain):
        kind, at_us, length = _SECTION.unpack_from(plain, at)
        at += _SECTION.size
        if at + length > len(plain):
            raise ValueError("a section is cut")
        yield bytes((kind,)), at_us, plain[at : at + length]
        at += length


def _joined(sections: Iterable[tuple[bytes, int, bytes]]) -> Message:
    start: Start | None = None
    request: bytes = b""
    head: AnswerHead | None = None
    end: End | None = None
    response: list[Piece] = []
    problems: list[str] = []
    for kind, at_us, payload in sections:
        match kind:
            case b"S":
                start = Start.from_bytes(payload)
            case b"Q":
                request = payload
            case b"H":
                head = AnswerHead.from_bytes(payload)
            case b"R":
                response.append(Piece(at_us, payload))
            case b"E":
                end = End.from_bytes(payload)
            case b"P":
                problems.append(payload.decode())
            case _:
                raise ValueError("an unknown section")
    if start is None:
        raise ValueError("no start")
    return Message(Exchange(start, request, head, tuple(response), end), tuple(problems))
