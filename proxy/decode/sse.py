"""Server-sent events: bytes to frames, by the rules of the WHATWG HTML standard (section 9.2.6).

Knows nothing of what the frames carry. Departs from the standard in one point, as every client
does: a last frame without its blank line is delivered, since providers leave it out.
"""

from __future__ import annotations

from collections.abc import Iterator

from proxy.nouns import noun

_BOM = b"\xef\xbb\xbf"


@noun(frozen=True, slots=True)
class Frame:
    """One event. `end` is the offset behind its last line."""

    name: str
    data: bytes
    end: int
    is_ended: bool = True  # False: the stream ended before the frame's blank line


def read_frames(stream: bytes) -> Iterator[Frame]:
    """The frames of a stream, in order. Frames without a `data` line are none."""
    name, data = "", list[bytes]()
    offset = len(_BOM) if stream.startswith(_BOM) else 0
    end = offset
    for line in stream[offset:].splitlines(keepends=True):
        offset += len(line)
        line = line.rstrip(b"\r\n")
        if not line:
            if data:
                yield Frame(name, b"\n".join(data), offset)
            name, data = "", []
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
            end = offset
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    if data:
        yield Frame(name, b"\n".join(data), end, is_ended=False)
