"""Answer: reads the answer to one request from the bytes of a connection. No I/O.

It frames (RFC 9112 §6) and nothing more: heads come out as they were, and the body's bytes as one
piece per read. What cannot be framed safely is a fault: another transfer coding than chunked, a
length beside it, an oversized head. Bytes after the answer's end are noted, since a connection with
such a surplus must not be used again.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import httptools

from proxy.nouns import noun
from proxy.wire.faults import UpstreamReset
from proxy.wire.fields import Fields


class Framing(Enum):
    """How the end of a body is told."""

    NONE = "none"  # HEAD, 1xx, 204, 304
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


NO_LENGTH = (Framing.CHUNKED, Framing.CLOSE)
_TOO_LARGE = (
    "the upstream's answer has too large a head or trailer; gateway.max_header_bytes says how large"
)
_TOO_MANY = "the upstream's answer has too many fields; gateway.max_headers says how many"
_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing.NONE, Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE


@noun(frozen=True, slots=True)
class Head:
    """The head of an answer as it crossed the wire."""

    status: int
    reason: bytes
    fields: Fields
    framing: Framing

    @property
    def status_line(self) -> bytes:
        """As the agent gets it: our version of HTTP, the upstream's words."""
        return b"HTTP/1.1 %d %b\r\n" % (self.status, self.reason)

    @property
    def is_interim(self) -> bool:
        return self.status < 200 and self.status != 101


@noun(frozen=True, slots=True)
class HeadLimits:
    """What is accepted of a head; the whole is checked while it is incomplete."""

    head_bytes_max: int
    field_bytes_max: int
    fields_max: int


class AnswerReader:
    """Feed it what arrives; look at `heads`, `is_complete` and `fault` after each feed."""

    def __init__(self, limits: HeadLimits, *, is_head_only: bool) -> None:
        """`is_head_only`: the request was HEAD, so the answer has no body whatever it says."""
        self._limits = limits
        self._parser = httptools.HttpResponseParser(self)
        # What every client accepts; control bytes in fields stay refused.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self.begin(is_head_only=is_head_only)

    def begin(self, *, is_head_only: bool) -> None:
        """Read the next answer, after one that `leaves_parser_clean`."""
        self.heads: deque[Head] = deque()
        self.is_complete = False
        self.has_begun = False  # at least one byte came
        self.has_surplus = False
        self.keeps_alive = False  # valid once the final head is read
        self.fault: UpstreamReset | None = None
        self._is_head_only = is_head_only
        self._final: Head | None = None
        self._is_all_framing = False  # no body was in the last piece, and no end of the head
        self._framing_bytes = 0  # since the answer began, or since the last byte of its body
        self._reason = b""
        self._fields: list[tuple[bytes, bytes, bytes]] = []
        self._pieces: list[bytes] = []

    @property
    def leaves_parser_clean(self) -> bool:
        """Whether the parser waits for an answer as a new one does.

        Not behind an answer to HEAD, of which it awaits a body, nor behind a chunked body, whose
        last trailer it would take for a header of the next answer.
        """
        final = self._final
        return (
            self.is_complete and self.keeps_alive and final is not None and final.framing is _LENGTH
        )

    def feed(self, data: bytes) -> bytes:
        """Read on; what of it belongs to the body."""
        self.has_begun = self._is_all_framing = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # 101: what follows is no HTTP
            self._pieces.append(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            if self.is_complete:
                self.has_surplus = True
            else:
                self._fail("the upstream's answer is not valid HTTP/1.1")
        if self._is_all_framing and not self.is_complete:
            self._framing_bytes += len(data)
            if self._framing_bytes > self._limits.head_bytes_max:
                self._fail(_TOO_LARGE)
        pieces = self._pieces
        if len(pieces) == 1:
            return pieces.pop()
        body = b"".join(pieces)
        pieces.clear()
        return body

    def feed_eof(self) -> None:
        """The upstream has closed the connection in order."""
        if self._final is not None and self._final.framing is _CLOSE:
            self.is_complete = self.is_complete or self.fault is None
        self.feed_break()

    def feed_break(self) -> None:
        """No more bytes will come."""
        if not self.is_complete:
            when = "in the middle of its answer" if self._final else "before its answer"
            self._fail(f"the upstream closed the connection {when}")

    def release(self) -> None:
        """Break the reference cycle with the parser, whose buffers are not small."""
        del self._parser

    def _fail(self, text: str) -> None:
        if self.fault is None:
            self.fault = UpstreamReset(text)

    # The parser's callbacks. An exception in one becomes an HttpParserError in `feed`.

    def on_message_begin(self) -> None:
        if self.is_complete:
            self.has_surplus = True

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._final is not None:  # a trailer, or surplus
            return
        limits = self._limits
        if (
            len(name) + len(value) > limits.field_bytes_max
            or len(self._fields) >= limits.fields_max
        ):
            is_many = len(self._fields) >= limits.fields_max
            self._fail(_TOO_MANY if is_many else _TOO_LARGE)
            raise ValueError("head too large")
        self._fields.append((name.lower(), name, value))

    def on_headers_complete(self) -> None:
        if self._final is not None:
            return
        status, fields = self._parser.get_status_code(), tuple(self._fields)
        head = Head(status, self._reason, fields, self._framing(status, fields))
        self._reason, self._fields = b"", []
        self.heads.append(head)
        if head.is_interim:
            return
        self._final = head
        self._is_all_framing, self._framing_bytes = False, 0
        self.keeps_alive = self._parser.should_keep_alive()
        self.is_complete = head.framing is _NONE

    def on_body(self, data: bytes) -> None:
        if self.is_complete:  # of a HEAD, which has none
            self.has_surplus = True
        else:
            self._is_all_framing, self._framing_bytes = False, 0
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self._final is not None:
            self.is_complete = True

    def _framing(self, status: int, fields: Fields) -> Framing:
        codings, has_length = [], False
        for name, _, value in fields:
            if name == b"transfer-encoding":
                codings.append(value.lower())
            elif name == b"content-length":
                has_length = True
        if codings and codings != [b"chunked"]:
            raise ValueError("transfer coding other than chunked")
        if self._is_head_only or status < 200 or status in (204, 304):
            return _NONE
        if codings:
            return _CHUNKED
        return _LENGTH if has_length else _CLOSE
