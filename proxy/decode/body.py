"""Bodies: content-encodings undone, within bounds, and when each byte arrived.

Works on the recorded copy only; what the agent got is untouched. Codings: gzip (several members),
deflate (zlib or raw), br, zstd, several in a row. A stream that is cut or damaged gives what could
be decoded; a label that the bytes contradict is not believed. All of it is said in `problems`.

What is decoded does not depend on how the body was cut into pieces, only the arrival times do.

Sources: RFC 9110 section 8.4, RFC 1950-1952, RFC 7932, RFC 8878.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Protocol

import brotli  # type: ignore[import-untyped]  # the package ships no types
import zstandard

from proxy.decode.problems import Problems
from proxy.exchange import Piece
from proxy.nouns import noun

BODY_BYTES_MAX = 64 * 1024 * 1024
RATIO_MAX = 200  # output over input; agents' traffic compresses to a thirtieth at best
RATIO_FREE_BYTES = 8 * 1024 * 1024  # the ratio is not looked at below this much output
MEMBERS_MAX = 1000  # of one body; each costs a new decompressor
CODINGS_MAX = 4
# Fed at once: bounds what one call can blow up to. A zstd block of 4 bytes can stand for 128 KiB.
SLICE_BYTES = 512
SLICE_BYTES_OF_DAMAGED = 64
ZSTD_WINDOW_BYTES = 128 * 1024 * 1024

_TOO_LONG = "is longer than is kept; the rest is left out"
_DAMAGED = "is damaged; what could be decoded is kept"


@noun(frozen=True, slots=True)
class Body:
    """A decoded body. The bytes before `ends[i]` had arrived at `at_us[i]`."""

    data: bytes = b""
    ends: tuple[int, ...] = ()
    at_us: tuple[int, ...] = ()
    is_truncated: bool = False  # there was more than is kept

    def arrival_us(self, offset: int) -> int | None:
        """When the bytes before `offset` had arrived; None for an empty body."""
        if not self.ends:
            return None
        found = bisect_right(self.ends, max(0, offset - 1))
        return self.at_us[min(found, len(self.at_us) - 1)]


class _Decompressor(Protocol):
    @property
    def is_whole(self) -> bool: ...

    def feed(self, data: bytes, limit: int) -> bytes: ...


class _DamagedError(Exception):
    """The data are damaged here; `kept` is what was decoded until then."""

    def __init__(self, kept: list[Piece]) -> None:
        self.kept = kept


def read_body(
    pieces: Iterable[Piece],
    content_encoding: str | None,
    problems: Problems,
    what: str = "body",
    bytes_max: int = BODY_BYTES_MAX,
) -> Body:
    """Undo the content-encodings of a body that came in pieces. `what` names it in problems."""
    found, is_truncated = [piece for piece in pieces if piece.data], False
    codings = [name.strip().lower() for name in (content_encoding or "").split(",")]
    for name in list(reversed(codings))[:CODINGS_MAX]:
        if not found or name in ("", "identity"):
            continue
        if name not in _CODINGS:
            problems.add(f"{what} has an unknown content-encoding, {name[:40]!r}")
            break
        found, is_cut = _decoded(found, name, problems, what, bytes_max)
        is_truncated = is_truncated or is_cut
    data = b"".join(piece.data for piece in found)
    if len(data) > bytes_max:
        problems.add(f"{what} {_TOO_LONG}")
        data, is_truncated = data[:bytes_max], True
    ends = tuple(accumulate(len(piece.data) for piece in found))
    return Body(data, ends, tuple(piece.at_us for piece in found), is_truncated)


def _decoded(
    pieces: list[Piece], name: str, problems: Problems, what: str, bytes_max: int
) -> tuple[list[Piece], bool]:
    """The pieces with one coding undone, or as they are where the label is wrong; was it cut?"""
    make, head = _CODINGS[name], _head(pieces)
    try:
        found, problem = _run(make(head), pieces, bytes_max)
    except _DamagedError:
        # A decompressor loses what it had decoded from the slice it failed on. So once more, in
        # small slices of fixed length, and what is kept does not depend on the pieces.
        try:
            found, problem = _run(make(head), _regular(pieces), bytes_max)
        except _DamagedError as damage:
            found, problem = damage.kept, _DAMAGED
    is_mislabelled = _is_document(head) and not _is_document(_head(found))
    if is_mislabelled or (problem == _DAMAGED and not found):
        problems.add(f"{what} is labelled {name} and is not; it is read as it is")
        return pieces, False
    if problem:
        problems.add(f"{name} {what} {problem}")
    return found, problem == _TOO_LONG


def _head(pieces: list[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces[:8])[:8]


def _is_document(head: bytes) -> bool:
    """Whether JSON or SSE begins so. Raw deflate and br take nearly any bytes for theirs."""
    return head.lstrip(b" \t\r\n").startswith((b"{", b"[", b"data:", b"event:", b":"))


def _run(
    decompressor: _Decompressor, pieces: Iterable[Piece], bytes_max: int
) -> tuple[list[Piece], str | None]:
    """Feed all pieces; what came out, and what was wrong. Raises _DamagedError."""
    done: list[Piece] = []
    taken = given = 0
    for piece in pieces:
        for start in range(0, len(piece.data), SLICE_BYTES):
            part = piece.data[start : start + SLICE_BYTES]
            try:
                out = decompressor.feed(part, bytes_max - given + 1)
            except (zlib.error, brotli.error, zstandard.ZstdError):
                raise _DamagedError(done) from None
            taken, given = taken + len(part), given + len(out)
            if out:
                done.append(Piece(piece.at_us, out))
            if given > bytes_max or given > max(RATIO_FREE_BYTES, RATIO_MAX * taken):
                return done, _TOO_LONG
    return done, None if decompressor.is_whole else "is cut short"


def _regular(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same bytes in slices of one length, each with the arrival of its last byte."""
    held, at_us, length = b"", 0, SLICE_BYTES_OF_DAMAGED
    for piece in pieces:
        held, at_us = held + piece.data, piece.at_us
        whole = len(held) - len(held) % length
        for start in range(0, whole, length):
            yield Piece(at_us, held[start : start + length])
        held = held[whole:]
    if held:
        yield Piece(at_us, held)


class _Zlib:
    """One member of gzip, zlib or raw deflate, told apart by `wbits`."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, limit: int) -> bytes:
        return self._inner.decompress(data, limit)


class _Zstd:
    """One zstd frame."""

    def __init__(self) -> None:
        self._is_new = True
        inner = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
        self._inner = inner.decompressobj()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, limit: int) -> bytes:
        """Cannot be limited; SLICE_BYTES bounds it. A frame that comes at once is judged otherwise
        by the library than one in pieces (the size it declares), so none comes at once."""
        first = 1 if self._is_new else 0
        self._is_new = False
        head = self._inner.decompress(data[:first]) if first else b""
        rest = data[first:]
        return head + self._inner.decompress(rest) if rest else head


class _Members:
    """One member or frame after the other, each with a decompressor of its own."""

    def __init__(self, make: Callable[[], _Zlib | _Zstd]) -> None:
        self._make, self._left = make, MEMBERS_MAX
        self._inner = make()

    @property
    def is_whole(self) -> bool:
        return self._inner.eof

    def feed(self, data: bytes, limit: int) -> bytes:
        out: list[bytes] = []
        while data and limit > 0:
            if self._inner.eof:
                self._left -= 1
                if self._left <= 0:
                    raise zlib.error("too many members")
                self._inner = self._make()
            out.append(self._inner.decompress(data, limit))
            limit -= len(out[-1])
            data = self._inner.unused_data
        return b"".join(out)


class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Decompressor()

    @property
    def is_whole(self) -> bool:
        return bool(self._inner.is_finished())

    def feed(self, data: bytes, limit: int) -> bytes:
        out: bytes = self._inner.process(data, output_buffer_limit=limit)
        return out


def _gzip(_head: bytes) -> _Decompressor:
    return _Members(lambda: _Zlib(31))


def _deflate(head: bytes) -> _Decompressor:
    """zlib, as the standard says, or raw, as some servers send it; the first two bytes tell."""
    is_zlib = head[:1] and head[0] & 0x0F == 8 and int.from_bytes(head[:2], "big") % 31 == 0
    return _Members(lambda: _Zlib(15 if is_zlib else -15))


def _brotli(_head: bytes) -> _Decompressor:
    return _Brotli()


def _zstd(_head: bytes) -> _Decompressor:
    return _Members(_Zstd)


_CODINGS: dict[str, Callable[[bytes], _Decompressor]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
