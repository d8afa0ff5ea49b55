"""How an answer is framed, and its events one by one, whatever the framing.

An answer to a request for a stream may be plain JSON, and the reverse; labels may be missing or
wrong. So the first bytes decide, with the content-type where they leave it open. A dialect sees
events only: a plain answer is a stream of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from proxy.call import Json
from proxy.decode.eventstream import read_messages, starts_message
from proxy.decode.jsonvalue import BROKEN, read_json
from proxy.decode.ndjson import Document, read_array, read_lines
from proxy.decode.problems import Problems
from proxy.decode.sse import Frame, read_frames
from proxy.nouns import noun

DONE = "[DONE]"
"""Name of the event that stands for the end which the framing itself announces."""

_SSE_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":")
_SPACE = b" \t\r\n"


class Framing(StrEnum):
    EMPTY = "empty"
    JSON = "json"
    SSE = "sse"
    LINES = "lines"  # NDJSON
    ARRAY = "array"
    EVENT_STREAM = "event stream"  # AWS
    OTHER = "other"  # HTML, plain text, anything

    @property
    def is_stream(self) -> bool:
        return self in (Framing.SSE, Framing.LINES, Framing.ARRAY, Framing.EVENT_STREAM)


@noun(frozen=True, slots=True)
class Event:
    """One document of an answer. `end` is the offset behind it in the decoded body."""

    name: str  # SSE `event`, AWS `:event-type`; "" where there is none
    value: Json
    end: int = 0


def framing_of(body: bytes, content_type: str | None) -> Framing:
    """The framing of an answer's body."""
    label = (content_type or "").partition(";")[0].strip().lower()
    if starts_message(body) or (label == "application/vnd.amazon.eventstream" and body):
        return Framing.EVENT_STREAM
    start = body[:4096].removeprefix(b"\xef\xbb\xbf").lstrip(_SPACE)
    if start.startswith(b"{"):
        is_lines = label in ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
        return Framing.LINES if is_lines or _holds_several_documents(body) else Framing.JSON
    if start.startswith(b"["):
        return Framing.ARRAY
    if start.startswith(_SSE_STARTS) or (label == "text/event-stream" and start):
        return Framing.SSE
    return Framing.OTHER if body.strip(_SPACE) else Framing.EMPTY


def _holds_several_documents(body: bytes) -> bool:
    """Whether the first line is a whole document and others follow."""
    first, _, rest = body.strip(_SPACE).partition(b"\n")
    if not rest or not first.rstrip().endswith(b"}"):
        return False
    return read_json(first, Problems()) is not BROKEN


def read_events(body: bytes, framing: Framing, problems: Problems) -> Iterator[Event]:
    """The events of a body that is framed so. What is no JSON is left out and said."""
    if framing is Framing.JSON:
        yield from _plain(body, problems)
    elif framing is Framing.SSE:
        yield from _sse(body, problems)
    elif framing is Framing.LINES:
        yield from _documents(read_lines(body), problems)
    elif framing is Framing.ARRAY:
        yield from _documents(read_array(body), problems)
    elif framing is Framing.EVENT_STREAM:
        yield from _event_stream(body, problems)


def _plain(body: bytes, problems: Problems) -> Iterator[Event]:
    value = read_json(body, problems, "answer")
    if value is BROKEN:
        problems.add("answer is not valid JSON, or is cut short")
    else:
        yield Event("", value, len(body))


def _sse(body: bytes, problems: Problems) -> Iterator[Event]:
    for frame in read_frames(body):
        data = frame.data.strip()
        if data == b"[DONE]":
            yield Event(DONE, None, frame.end)
        elif data:  # an event without data keeps a connection alive
            yield from _parsed(frame, frame.name, problems)


def _documents(documents: Iterator[Document], problems: Problems) -> Iterator[Event]:
    for document in documents:
        if document.data:
            yield from _parsed(document, "", problems)
        else:
            yield Event(DONE, None, document.end)


def _parsed(part: Frame | Document, name: str, problems: Problems) -> Iterator[Event]:
    value = read_json(part.data, problems, "event")
    if value is not BROKEN:
        yield Event(name, value, part.end)
    elif part.is_ended:
        problems.add("event is not valid JSON")
    else:
        problems.add("last event is cut short")


def _event_stream(body: bytes, problems: Problems) -> Iterator[Event]:
    for message in read_messages(body, problems):
        name = message.headers.get(":exception-type") or message.headers.get(":event-type", "")
        if message.headers.get(":message-type") in ("exception", "error"):
            name = f"exception:{name or message.headers.get(':error-code', '')}"
        value = read_json(message.payload, problems, "event") if message.payload else {}
        if value is BROKEN:
            problems.add("event is not valid JSON")
        else:
            yield Event(name, value, message.end)
