"""Documents one after the other: JSON lines, and the elements of one JSON array.

Ollama streams the first kind, Gemini the second where `alt=sse` is not asked for. Nothing is
parsed here: a document is cut out as bytes, together with the offset behind it. Both work on
streams that end anywhere; what is left of an unfinished document comes last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.nouns import noun

# A string (also one that the end of the stream cuts) or a bracket; everything else is skipped.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


@noun(frozen=True, slots=True)
class Document:
    """The bytes of one JSON document. `end` is the offset behind it."""

    data: bytes
    end: int
    is_ended: bool = True


def read_lines(stream: bytes) -> Iterator[Document]:
    """Each line that is not blank."""
    offset = 0
    for line in stream.splitlines(keepends=True):
        offset += len(line)
        if line.strip():
            yield Document(line, offset, line.endswith((b"\n", b"\r")))


def read_array(stream: bytes) -> Iterator[Document]:
    """Each object or array inside the outermost array; then, if that was closed, an empty one."""
    depth, start = 0, 0
    for token in _TOKEN.finditer(stream):
        mark = token[0][:1]
        if mark in (b"[", b"{"):
            depth += 1
            if depth == 2:
                start = token.start()
        elif mark in (b"]", b"}"):
            depth -= 1
            if depth == 1:
                yield Document(stream[start : token.end()], token.end())
            elif depth == 0:
                yield Document(b"", token.end())
                return
    if depth > 1:
        yield Document(stream[start:], len(stream), is_ended=False)
