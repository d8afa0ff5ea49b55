"""Media in a message: the parts of every dialect as one noun. Pure."""

from __future__ import annotations

import re

from proxy.call import Json
from proxy.export.message import Media, Unconvertible

_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^,]*)?;base64,(.*)", re.DOTALL)
_AUDIO = {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "ogg": "audio/ogg"}
_IMAGES = ((b"iVBOR", "image/png"), (b"/9j/", "image/jpeg"), (b"R0lGOD", "image/gif"))


def medium(part: dict[str, Json]) -> Media | None:
    """The medium that a part holds; None for a part that is none."""
    for read in (_openai, _anthropic, _gemini, _bedrock, _ollama):
        found = read(part)
        if found is not None:
            return found
    return None


def _openai(part: dict[str, Json]) -> Media | None:
    kind = part.get("type")
    if kind in ("image_url", "input_image", "computer_screenshot"):
        url = part.get("image_url")
        return _from_url("image", url.get("url") if isinstance(url, dict) else url)
    if kind == "input_audio":
        audio = part.get("input_audio")
        inner = audio if isinstance(audio, dict) else part
        name = str(inner.get("format"))
        return Media("audio", _AUDIO.get(name, f"audio/{name}"), _data(inner.get("data")))
    if kind not in ("file", "input_file"):
        return None
    file = part.get("file")
    inner = file if isinstance(file, dict) else part
    named = inner.get("filename")
    found = _from_url("file", inner.get("file_data") or inner.get("file_url"))
    return Media("file", found.media_type, found.data, found.url, str(named) if named else None)


def _anthropic(part: dict[str, Json]) -> Media | None:
    source = part.get("source")
    kind = {"image": "image", "document": "file"}.get(str(part.get("type")))
    if kind is None or not isinstance(source, dict) or "bytes" in source:
        return None
    if source.get("type") == "url":
        return _from_url(kind, source.get("url"))
    if source.get("type") != "base64":
        raise Unconvertible("a document that is not part of the request")
    return Media(kind, str(source.get("media_type")), _data(source.get("data")))


def _gemini(part: dict[str, Json]) -> Media | None:
    inline = part.get("inlineData", part.get("inline_data"))
    if isinstance(inline, dict):
        kind = str(inline.get("mimeType", inline.get("mime_type")))
        return Media(_kind_of(kind), kind, _data(inline.get("data")))
    file = part.get("fileData", part.get("file_data"))
    if not isinstance(file, dict):
        return None
    kind = str(file.get("mimeType", file.get("mime_type", "application/octet-stream")))
    return Media(_kind_of(kind), kind, url=str(file.get("fileUri", file.get("file_uri"))))


def _bedrock(part: dict[str, Json]) -> Media | None:
    for kind in ("image", "document", "video"):
        inner = part.get(kind)
        source = inner.get("source") if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or not isinstance(source, dict):
            continue
        media_type = f"{'application' if kind == 'document' else kind}/{inner.get('format')}"
        kept = "file" if kind == "document" else kind
        if isinstance(stored := source.get("s3Location"), dict):
            return Media(kept, media_type, url=str(stored.get("uri")))
        return Media(kept, media_type, _data(source.get("bytes")))
    return None


def _ollama(part: dict[str, Json]) -> Media | None:
    if set(part) != {"image"}:
        return None
    data = _data(part["image"])
    kinds = (kind for sign, kind in _IMAGES if data.startswith(sign.decode()))
    return Media("image", next(kinds, "image/webp"), data)


def _from_url(kind: str, url: Json) -> Media:
    if isinstance(url, dict):  # a reference that nothing was found for
        raise Unconvertible("a medium that is not stored any more")
    if not isinstance(url, str) or not url:
        raise Unconvertible("a file that only the provider has")
    inline = _DATA_URL.fullmatch(url)
    if inline is None:
        return Media(kind, "", url=url)
    return Media(kind, inline[1] or "application/octet-stream", inline[2])


def _data(data: Json) -> str:
    if not isinstance(data, str):
        raise Unconvertible("a medium that is not stored any more")
    return data


def _kind_of(media_type: str) -> str:
    kind = media_type.partition("/")[0]
    return kind if kind in ("image", "audio", "video") else "file"
