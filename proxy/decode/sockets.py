"""Sockets: a WebSocket of a model, cut into one exchange per response.

A cutter sees the frames of both directions in the order of the spool and gives each response as
soon as it has ended, as the exchange it would have been over HTTP: the request is the message that
asked, the answer its events as server-sent events. So decoders, redaction and everything behind
them need not know of sockets. Its rules:

- The nth call that was begun on a socket has the id UUIDv5(socket's id, n), whoever reads the
  socket, how often and in whatever parts.
- Events that belong to no open call are passed over, and so is what breaks the protocol.
- Of one answer as much is kept as of an HTTP body; sound is counted and not kept.
- What is open at the end was cut: by the agent where it closed first, else by the upstream. Where
  the gateway died, or the spool could not keep the rest, nobody knows: that is told as a crash.

Sources: https://platform.openai.com/docs/guides/websocket-mode (lanes by `stream_id`, in each of
which requests are answered one after the other) and .../docs/api-reference/realtime-server-events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import parse_qs
from uuid import uuid5

from proxy.call import Json
from proxy.decode.jsonvalue import at, members, read_json, string, whole, word
from proxy.decode.problems import Problems
from proxy.decode.realtime_session import RealtimeSession
from proxy.decode.websocket import MessageReader
from proxy.endpoints import REALTIME_SOCKET
from proxy.exchange import AnswerHead, End, Exchange, Outcome, Piece, Start
from proxy.socket_part import SocketPart, SocketPiece

if TYPE_CHECKING:
    from hashlib import _Hash

_FINAL = frozenset(
    f"response.{status}" for status in ("completed", "incomplete", "failed", "cancelled", "done")
)
_SOUND = frozenset({"response.output_audio.delta", "response.audio.delta"})
OPEN_MAX = 256  # calls of a socket that wait for their answers; a further one gives up the oldest
_NOT_KEPT = "the rest of the WebSocket could not be kept"
_EVENT_STREAM = ("content-type", "text/event-stream")
_JSON = ("content-type", "application/json")


@dataclass(slots=True)
class _Call:
    """A response that was asked for and has not ended."""

    number: int
    at_us: int
    request: bytes
    lane: str | None = None
    event_id: str | None = None  # the asking message's, by which an error names it
    response_id: str | None = None
    pieces: list[Piece] = field(default_factory=list)
    kept: int = 0
    size: int = 0
    digest: _Hash = field(default_factory=sha256)  # of all of the answer's messages
    failed_status: int | None = None  # an error in place of an answer, with an HTTP status


class Cutter:
    """One socket. `take` its parts in order; what a message means is left to the subclasses."""

    endpoint: str

    def __init__(self, start: Start, bytes_max: int) -> None:
        self._start = start
        self._bytes_max = bytes_max
        self._from_agent = MessageReader(bytes_max)
        self._from_upstream = MessageReader(bytes_max)
        self._head: AnswerHead | None = None
        self._count = 0
        self._calls: list[_Call] = []  # open, in the order in which they were begun
        self._was_closed_by_agent = False

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read of the socket so far."""
        sides = (("agent", self._from_agent), ("upstream", self._from_upstream))
        return tuple(
            f"frames of the {side}: {reader.fault}" for side, reader in sides if reader.fault
        )

    def take(self, part: SocketPart) -> list[Exchange]:
        """The calls that ended in this part."""
        self._head = part.head or self._head
        ended = [call for piece in part.pieces for call in self._read(piece)]
        if part.is_last:
            ended += [self._exchange(call, self._cut(call, part.end)) for call in self._calls]
            self._calls.clear()
        return ended

    def _read(self, piece: SocketPiece) -> Iterator[Exchange]:
        reader = self._from_agent if piece.is_from_agent else self._from_upstream
        for message in reader.feed(piece.data):
            value = members(read_json(message, Problems()))
            if piece.is_from_agent:
                self._asked(value, message, piece.at_us)
                if len(self._calls) > OPEN_MAX:
                    yield self._ended(self._calls[0], piece.at_us, Outcome.UPSTREAM_RESET)
            elif (call := self._answered(value, message, piece.at_us)) is not None:
                yield self._ended(call, piece.at_us)
        self._was_closed_by_agent |= (
            self._from_agent.is_closed and not self._from_upstream.is_closed
        )

    # What a message means.

    def _asked(self, value: dict[str, Json], message: bytes, at_us: int) -> None:
        if value.get("type") == "response.create":
            self._begin(at_us, message, value)

    def _answered(self, value: dict[str, Json], message: bytes, at_us: int) -> _Call | None:
        """The call that this event ends."""
        kind = string(value.get("type"))
        call = self._call_of(kind, value, at_us)
        if call is None:
            return None
        if kind == "error" and not call.pieces:
            call.failed_status = _failed_status(value)
        self._keep(call, kind, message, at_us)
        return call if kind in _FINAL or kind == "error" else None

    def _call_of(self, kind: str, value: dict[str, Json], at_us: int) -> _Call | None:
        """The open call that an event belongs to."""
        raise NotImplementedError

    # A call's life.

    def _begin(self, at_us: int, request: bytes, value: dict[str, Json]) -> _Call:
        self._count += 1
        lane, event_id = word(value.get("stream_id")), word(value.get("event_id"))
        call = _Call(self._count, at_us, request, lane, event_id)
        self._calls.append(call)
        return call

    def _keep(self, call: _Call, kind: str, message: bytes, at_us: int) -> None:
        call.size += len(message)
        call.digest.update(message)
        if kind not in _SOUND and call.kept + len(message) <= self._bytes_max:
            call.kept += len(message)
            call.pieces.append(Piece(max(0, at_us - call.at_us), message))

    def _ended(self, call: _Call, at_us: int, outcome: Outcome = Outcome.COMPLETE) -> Exchange:
        self._calls.remove(call)
        if call.failed_status:
            outcome = Outcome.UPSTREAM_ERROR
        return self._exchange(call, self._end(call, at_us, outcome))

    def _cut(self, call: _Call, end: End | None) -> End | None:
        """How a call ended that was open when its socket did."""
        if end is None or end.outcome is Outcome.PROXY_CRASHED:
            return end and self._end(call, end.at_us, end.outcome, end.error)
        if end.request_kept < end.request_bytes or end.response_kept < end.response_bytes:
            return self._end(call, end.at_us, Outcome.PROXY_CRASHED, _NOT_KEPT)
        is_agents = self._was_closed_by_agent or end.outcome is Outcome.CLIENT_DISCONNECTED
        side, outcome = (
            ("agent", Outcome.CLIENT_DISCONNECTED)
            if is_agents
            else ("upstream", Outcome.UPSTREAM_RESET)
        )
        return self._end(call, end.at_us, outcome, f"the {side} closed the WebSocket")

    def _end(self, call: _Call, at_us: int, outcome: Outcome, error: str | None = None) -> End:
        return End(
            max(0, at_us - call.at_us),
            outcome,
            error,
            request_bytes=len(call.request),
            response_bytes=call.size,
            request_sha256=sha256(call.request).hexdigest(),
            response_sha256=call.digest.hexdigest(),
            request_kept=len(call.request),
            response_kept=call.kept,
        )

    def _exchange(self, call: _Call, end: End | None) -> Exchange:
        start = replace(
            self._start,
            id=uuid5(self._start.id, str(call.number)),
            at_ns=self._start.at_ns + call.at_us * 1000,
            endpoint=self.endpoint,
            socket=self._start.id,
        )
        headers = tuple(self._head.headers) if self._head else ()
        if call.failed_status:
            head = AnswerHead(call.pieces[0].at_us, call.failed_status, (*headers, _JSON))
            return Exchange(start, call.request, head, tuple(call.pieces), end)
        at_us = call.pieces[0].at_us if call.pieces else 0
        head = AnswerHead(at_us, 200, (*headers, _EVENT_STREAM))
        pieces = tuple(Piece(piece.at_us, _as_event(piece.data)) for piece in call.pieces)
        return Exchange(start, call.request, head if pieces else None, pieces, end)


class ResponsesCutter(Cutter):
    """OpenAI Responses. Events name the lane of their call, in which calls follow each other."""

    endpoint = "responses"

    def _call_of(self, kind: str, value: dict[str, Json], at_us: int) -> _Call | None:
        lane = word(value.get("stream_id"))
        call = next((call for call in self._calls if call.lane == lane), None)
        if kind == "response.created":
            if call is None or call.response_id is not None:
                call = self._begin(at_us, _continued(members(value.get("response"))), value)
            call.response_id = word(at(value, "response", "id")) or ""
        return call


class RealtimeCutter(Cutter):
    """OpenAI Realtime. Events name their response; the provider may begin one by itself."""

    endpoint = "realtime"

    def __init__(self, start: Start, bytes_max: int) -> None:
        super().__init__(start, bytes_max)
        query = parse_qs(start.target.partition("?")[2])
        self._session = RealtimeSession(query.get("model", [None])[0])

    def _answered(self, value: dict[str, Json], message: bytes, at_us: int) -> _Call | None:
        call = super()._answered(value, message, at_us)
        self._session.hear(value)
        return call

    def _call_of(self, kind: str, value: dict[str, Json], at_us: int) -> _Call | None:
        if kind == "error":
            return self._refused(word(at(value, "error", "event_id")))
        id = word(at(value, "response", "id")) or word(value.get("response_id"))
        if kind == "response.created":
            return self._created(id or "", value, at_us)
        return next((call for call in self._calls if id and call.response_id == id), None)

    def _created(self, id: str, value: dict[str, Json], at_us: int) -> _Call:
        waiting = next((call for call in self._calls if call.response_id is None), None)
        call = waiting or self._begin(at_us, b"{}", value)
        asked = members(read_json(call.request, Problems())).get("response")
        call.request = self._session.request(members(asked))
        call.response_id = id
        return call

    def _refused(self, event_id: str | None) -> _Call | None:
        """The call that an error refuses; most errors are about other messages of the client."""
        waiting = (call for call in self._calls if call.response_id is None)
        return next((call for call in waiting if call.event_id == event_id), None)


def cutter_of(start: Start, bytes_max: int) -> Cutter:
    """The cutter for a socket that was begun so."""
    is_realtime = start.endpoint == REALTIME_SOCKET.name
    return (RealtimeCutter if is_realtime else ResponsesCutter)(start, bytes_max)


def _continued(response: dict[str, Json]) -> bytes:
    """The request of a response that the provider began by itself, after input was queued."""
    kept = ("model", "previous_response_id", "instructions", "tools")
    try:
        return json.dumps({name: response[name] for name in kept if name in response}).encode()
    except RecursionError:  # nested by somebody to do harm
        return b"{}"


def _failed_status(value: dict[str, Json]) -> int | None:
    """The HTTP status that an error stands for, where it names one."""
    status = whole(value.get("status"))
    return status if status is not None and 400 <= status <= 599 else None


def _as_event(message: bytes) -> bytes:
    """A message as a server-sent event."""
    return b"data: " + b"\ndata: ".join(message.splitlines()) + b"\n\n"
