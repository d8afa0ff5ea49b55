"""Captured: one exchange outside of the spool, in any form in which it is kept.

Either as a raw copy in `agent_raw` (`Exchange.to_bytes`, compressed with zstd; a file may also hold
it plain), or as one line of a recording with `request` and `response`, bodies in base64.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import zstandard

from proxy.endpoints import classify
from proxy.errors import ProxyError
from proxy.exchange import AnswerHead, End, Exchange, Headers, Outcome, Piece, Start

FILE_BYTES_MAX = 512 * 1024 * 1024
_ZSTD = b"\x28\xb5\x2f\xfd"


def packed(exchange: Exchange) -> bytes:
    """The exchange as it lies in `agent_raw`."""
    return zstandard.compress(exchange.to_bytes())


def unpacked(data: bytes) -> Exchange:
    """The exchange of a raw copy. Raises ProxyError where it is none."""
    try:
        return Exchange.from_bytes(zstandard.decompress(data, max_output_size=FILE_BYTES_MAX))
    except (ValueError, TypeError, KeyError, AttributeError, zstandard.ZstdError) as error:
        raise ProxyError(f"a raw copy is no exchange: {type(error).__name__}") from None


def read(path: Path) -> Exchange:
    """The exchange in the file. Raises ProxyError that says what is wrong with it."""
    try:
        data = path.read_bytes()
        if data.startswith(_ZSTD):
            data = zstandard.decompress(data, max_output_size=FILE_BYTES_MAX)
        raw = orjson.loads(data)
        return _recording(raw) if "version" not in raw else Exchange.from_bytes(data)
    except OSError as error:
        raise ProxyError(f"{path}: {error.strerror}") from None
    except KeyError as error:
        raise ProxyError(f"{path}: no exchange: the key {error} is missing") from None
    except (ValueError, TypeError, AttributeError, zstandard.ZstdError, binascii.Error) as error:
        raise ProxyError(
            f"{path}: no exchange: {error}; give a raw copy of agent_raw, or one line of a "
            "recording with request and response"
        ) from None


def _recording(raw: Mapping[str, Any]) -> Exchange:
    request, response = raw["request"], raw["response"]
    target = str(request["path"])
    endpoint = classify(str(request["method"]), target.partition("?")[0])
    if endpoint is None:
        raise ValueError(f"{request['method']} {target} is no model call")
    asked = b64decode(request.get("body_b64") or "")
    body = b64decode(response.get("body_b64") or "")
    return Exchange(
        Start(
            id=UUID(int=0),
            at_ns=0,
            upstream=str(raw.get("provider", "unknown")),
            dialect=endpoint.dialect,
            endpoint=endpoint.name,
            method=str(request["method"]),
            target=target,
            headers=_headers(request),
        ),
        asked,
        AnswerHead(0, int(response["status"]), _headers(response)),
        (Piece(0, body),) if body else (),
        End(
            0,
            Outcome.COMPLETE,
            request_bytes=len(asked),
            response_bytes=len(body),
            request_sha256=hashlib.sha256(asked).hexdigest(),
            response_sha256=hashlib.sha256(body).hexdigest(),
            request_kept=len(asked),
            response_kept=len(body),
        ),
    )


def _headers(part: Mapping[str, Any]) -> Headers:
    return tuple((str(k).lower(), str(v)) for k, v in (part.get("headers") or {}).items())
