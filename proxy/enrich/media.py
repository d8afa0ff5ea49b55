"""Media: inline images, audio, video and files taken out of a record, and put back exactly. Pure.

A medium is a data URL anywhere, or a string of base64 where a provider's API puts one (`_PLACES`).
Its place is taken by a reference:

    {"$blob": SHA-256 in hex, "media_type": "image/png", "bytes": length of the content}
    + "prefix"    what stood before the base64, such as `data:image/png;base64,`
    + "encoding"  where that was not plain base64, see `_ENCODINGS`; `text`: the blob is the text

`extract` takes out every medium, so that nothing behind it reads or damages one; `settle` puts the
small ones back. An object of somebody's own that could be taken for a reference gets one more `$`
before its name. `restore` undoes all of it. What is text inside (a file, a table) is no hiding
place for secrets: it goes through `clean` first.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_not
from typing import Any

import orjson
import re2

from proxy.call import Json
from proxy.nouns import noun
from proxy.record import Blob, TelemetryRecord

NAME = "$blob"
COLUMNS = ("chat_history", "request_params", "tool_calls", "tool_results", "capture")
BARE_MAX = 20_000  # names of messages without media that are remembered
DEPTH_MAX = 64  # no API nests media deeper; what lies deeper is left alone, by `restore` too
CHARS_MIN = 32  # no image is shorter; so words of a text are not even looked at

# Where APIs put bare base64, and which names beside it tell that it is one; none: always.
_TYPED = ("media_type", "mimeType", "mime_type", "format", "transcript")
_PLACES: dict[str, tuple[str, ...]] = {
    "data": _TYPED,  # Anthropic, Gemini, OpenAI's audio, tools' results
    "bytes": (),  # Bedrock
    "file_data": (),
    "b64_json": (),
    "images": (),  # Ollama, a list
    "result": (),  # of OpenAI's image generation
}
# What JSON text with a medium, or with something like a reference to one, has in it.
_TRACES = re2.compile(rf';base64,|blob":|"(?:{"|".join(_PLACES)})":'.encode())
_GENERATED = "image_generation_call"
_DATA_URL = re.compile(r"data:([\w.+-]{1,64}/[\w.+-]{1,64})?(?:;[\w-]{1,32}=[\w.-]{1,64})?;base64,")
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}")
_WRAPPED = re.compile(r"[A-Za-z0-9+/\r\n]+={0,2}[\r\n]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAMES = re.compile(r"\$+blob")
_PARTS = frozenset({NAME, "media_type", "bytes", "prefix", "encoding"})

# What begins a file, at which offset, of which type.
_SIGNATURES: tuple[tuple[bytes, int, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"GIF8", 0, "image/gif"),
    (b"WEBP", 8, "image/webp"),
    (b"WAVE", 8, "audio/wav"),
    (b"AVI ", 8, "video/x-msvideo"),
    (b"ftyp", 4, "video/mp4"),
    (b"\x1aE\xdf\xa3", 0, "video/webm"),
    (b"ID3", 0, "audio/mpeg"),
    (b"OggS", 0, "audio/ogg"),
    (b"fLaC", 0, "audio/flac"),
    (b"%PDF-", 0, "application/pdf"),
    (b"PK\x03\x04", 0, "application/zip"),  # formats of office programs too
)


@noun(frozen=True, slots=True)
class _Encoding:
    is_url_safe: bool = False
    is_padded: bool = True

    def encode(self, content: bytes) -> str:
        encode = base64.urlsafe_b64encode if self.is_url_safe else base64.b64encode
        text = encode(content).decode("ascii")
        return text if self.is_padded else text.rstrip("=")

    def decode(self, text: str) -> bytes | None:
        """The content, where encoding it again gives this very text."""
        padded = text if self.is_padded else text + "=" * (-len(text) % 4)
        try:
            content = base64.b64decode(padded, b"-_" if self.is_url_safe else None, validate=True)
        except (binascii.Error, ValueError):
            return None
        return content if self.encode(content) == text else None


_ENCODINGS = {
    "base64": _Encoding(),
    "base64-unpadded": _Encoding(is_padded=False),
    "base64url": _Encoding(is_url_safe=True),
    "base64url-unpadded": _Encoding(is_url_safe=True, is_padded=False),
}
_TEXT = "text"

Members = Mapping[str, Json]


class Bare:
    """Names of messages in which no media were found: agents send them again in each round."""

    def __init__(self) -> None:
        self._names: set[bytes] = set()

    def may_hold(self, history: list[Json], names: Sequence[bytes | None]) -> bool:
        """Whether a message of the history may hold media. `names` identify the messages."""
        if len(names) != len(history):
            return _may_hold_media(history)
        for message, name in zip(history, names, strict=True):
            if name is not None and name in self._names:
                continue
            if _may_hold_media(message):
                return True
            if name is not None:
                self._note(name)
        return False

    def _note(self, name: bytes) -> None:
        if len(self._names) >= BARE_MAX:
            self._names.clear()
        self._names.add(name)


def extract(
    record: TelemetryRecord,
    clean: Callable[[str], str],
    bytes_max: int,
    bare: Bare | None = None,
    names: Sequence[bytes | None] = (),
) -> tuple[TelemetryRecord, dict[str, Blob]]:
    """The record with references for media, and what was taken out, by SHA-256.

    Content of no known kind is a medium only where it is larger than `bytes_max`: anything else may
    be a secret, and stays where redaction sees it. Messages of the history that `bare` knows by
    their `names` are not looked into again.
    """
    extraction = _Extraction(clean, bytes_max)
    changed: dict[str, Any] = {}
    for column in COLUMNS:
        value = getattr(record, column)
        if not value:
            continue
        if bare is not None and column == "chat_history":
            may_hold = bare.may_hold(value, names)
        else:
            may_hold = _may_hold_media(value)
        if may_hold:
            changed[column] = extraction.value(value)
    return replace(record, **changed) if changed else record, extraction.taken


def settle(
    record: TelemetryRecord, taken: Mapping[str, Blob], bytes_max: int
) -> tuple[TelemetryRecord, tuple[Blob, ...]]:
    """Media of at most `bytes_max` back in their places; the others as blobs to be stored.

    `capture.blobs` lists what the record refers to.
    """
    small = {key: blob.content for key, blob in taken.items() if len(blob.content) <= bytes_max}
    if small:
        inlining = _Restoration(small.get, is_final=False)
        record = _mapped(record, inlining.value)
    blobs = tuple(blob for key, blob in taken.items() if key not in small)
    if blobs:
        listed: list[Json] = [blob.sha256 for blob in blobs]
        record = replace(record, capture={**(record.capture or {}), "blobs": listed})
    return record, blobs


def restore(value: Json, lookup: Callable[[str], bytes | None]) -> Json:
    """A column's value as it came, exactly. `lookup` gives the content of a blob by its SHA-256.

    References to blobs that it does not know stay.
    """
    return _Restoration(lookup, is_final=True).value(value)


def is_reference(value: Json) -> bool:
    """Whether this is a reference to a blob, and nothing more: it has no place for other text."""
    if not isinstance(value, dict) or not _is_sha256(value.get(NAME)):
        return False
    kind, prefix = value.get("media_type"), value.get("prefix", "data:;base64,")
    return (
        _PARTS.issuperset(value)
        and isinstance(value.get("bytes"), int)
        and (kind is None or (isinstance(kind, str) and _MEDIA_TYPE.fullmatch(kind) is not None))
        and (isinstance(prefix, str) and _DATA_URL.fullmatch(prefix) is not None)
        and value.get("encoding", _TEXT) in (*_ENCODINGS, _TEXT)
    )


@dataclass(slots=True)
class _Extraction:
    """The walk over one record that takes media out."""

    clean: Callable[[str], str]
    bytes_max: int
    taken: dict[str, Blob] = field(default_factory=dict)

    def value(self, value: Json) -> Json:
        return self._walk(value, {}, "", 0)

    def _walk(self, value: Json, holder: Members, name: str, depth: int) -> Json:
        """The value, itself where nothing in it changed. It stands under `name` in `holder`."""
        if depth >= DEPTH_MAX:
            return value
        if isinstance(value, str):
            return value if len(value) < CHARS_MIN else self._text(value, holder, name)
        if isinstance(value, list):
            items = [self._walk(item, holder, name, depth + 1) for item in value]
            return items if any(map(is_not, items, value)) else value
        if isinstance(value, dict):
            return self._members(value, depth)
        return value

    def _members(self, value: dict[str, Json], depth: int) -> Json:
        members = {key: self._walk(item, value, key, depth + 1) for key, item in value.items()}
        if _holds_digest(value, NAME):
            return {f"${key}" if _NAMES.fullmatch(key) else key: i for key, i in members.items()}
        return members if any(map(is_not, members.values(), value.values())) else value

    def _text(self, text: str, holder: Members, name: str) -> Json:
        url = _DATA_URL.match(text)
        if url is None and not _may_be_media(holder, name):
            return text
        prefix = url[0] if url else ""
        encoding, content = _decoded(text[len(prefix) :])
        if content is None:
            return text
        if encoding != _TEXT and (readable := _as_text(content)) is not None:
            cleaned = self.clean(readable).encode()
            if cleaned != content:
                content, text = cleaned, prefix + _ENCODINGS[encoding].encode(cleaned)
        kind = _kind(content)
        if kind is None and len(content) <= self.bytes_max:
            return text
        blob = Blob(hashlib.sha256(content).hexdigest(), _declared(url, holder) or kind, content)
        self.taken[blob.sha256] = blob
        return _reference(blob, prefix, encoding)


@noun(frozen=True, slots=True)
class _Restoration:
    """The walk that puts media back: some of them, or finally all, and names as they were."""

    lookup: Callable[[str], bytes | None]
    is_final: bool

    def value(self, value: Json) -> Json:
        return self._walk(value, 0)

    def _walk(self, value: Json, depth: int) -> Json:
        if depth >= DEPTH_MAX:
            return value
        if isinstance(value, list):
            return [self._walk(item, depth + 1) for item in value]
        if not isinstance(value, dict):
            return value
        if is_reference(value):
            return self._put_back(value)
        is_escaped = self.is_final and _holds_digest(value, f"${NAME}")
        return {
            key[1:] if is_escaped and _NAMES.fullmatch(key) else key: self._walk(item, depth + 1)
            for key, item in value.items()
        }

    def _put_back(self, reference: dict[str, Json]) -> Json:
        content = self.lookup(str(reference[NAME]))
        if content is None:
            return reference
        prefix, name = reference.get("prefix", ""), reference.get("encoding", "base64")
        encoding = _ENCODINGS.get(str(name))
        return f"{prefix}{encoding.encode(content) if encoding else content.decode('ascii')}"


def _may_hold_media(value: Json) -> bool:
    """Whether a walk could find anything. Most values are told apart at a hundredth of its cost."""
    try:
        written = orjson.dumps(value)
    except TypeError:  # lone surrogates, integers over 64 bits, too deep
        return True
    return _TRACES.search(written) is not None


def _mapped(record: TelemetryRecord, change: Callable[[Json], Json]) -> TelemetryRecord:
    given = {column: getattr(record, column) for column in COLUMNS}
    changed: dict[str, Any] = {column: change(value) for column, value in given.items() if value}
    return replace(record, **changed)


def _may_be_media(holder: Members, name: str) -> bool:
    """Whether APIs put base64 here. `type: text` beside `media_type` is Anthropic's plain text."""
    typed = _PLACES.get(name)
    kind = holder.get("type")
    if typed is None or kind == "text" or (name == "result" and kind != _GENERATED):
        return False
    return not typed or any(beside in holder for beside in typed)


def _decoded(text: str) -> tuple[str, bytes | None]:
    """The encoding's name and the content; None where the text is no base64 of any kind."""
    for name, encoding in _ENCODINGS.items():
        if (content := encoding.decode(text)) is not None:
            return name, content
    return _TEXT, text.encode() if _WRAPPED.fullmatch(text) else None


def _as_text(content: bytes) -> str | None:
    """The content as text, where it is some."""
    try:
        return None if b"\0" in content else content.decode()
    except UnicodeDecodeError:
        return None


def _kind(content: bytes) -> str | None:
    """The media type that the first bytes tell."""
    fits = (kind for sign, at, kind in _SIGNATURES if content.startswith(sign, at))
    return next(fits, None)


def _declared(url: re.Match[str] | None, holder: Members) -> str | None:
    """The media type that the request or answer names."""
    named = [url[1]] if url else [holder.get(name) for name in _TYPED]
    return next((n for n in named if isinstance(n, str) and _MEDIA_TYPE.fullmatch(n)), None)


def _reference(blob: Blob, prefix: str, encoding: str) -> Json:
    size = len(blob.content)
    found: dict[str, Json] = {NAME: blob.sha256, "media_type": blob.media_type, "bytes": size}
    if prefix:
        found["prefix"] = prefix
    if encoding != "base64":
        found["encoding"] = encoding
    return found


def _holds_digest(value: Members, name: str) -> bool:
    """Whether one of the object's names is this one, or this with more `$`, and names a digest."""
    return any(
        _is_sha256(item)
        for key, item in value.items()
        if key.endswith(name) and _NAMES.fullmatch(key)
    )


def _is_sha256(value: Json | None) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
