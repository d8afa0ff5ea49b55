"""Fields: the header fields of a message as they crossed the wire. Pure."""

from __future__ import annotations

from collections.abc import Iterable

Fields = tuple[tuple[bytes, bytes, bytes], ...]
"""Each field in order: name in lower case, name as sent, value as sent."""


def from_raw(raw: Iterable[tuple[bytes, bytes]]) -> Fields:
    return tuple((name.lower(), name, value) for name, value in raw)


def first(fields: Fields, wanted: bytes) -> bytes | None:
    """The first value of this lower-case name."""
    for name, _, value in fields:
        if name == wanted:
            return value
    return None


def text(value: bytes | None) -> str | None:
    """A label's value: UTF-8 where it is valid, else ISO-8859-1."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
