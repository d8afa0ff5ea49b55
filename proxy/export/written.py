"""Written: JSON that a model or a tool wrote into a text, as a value that any file can hold. Pure.

What JSON forbids or a double cannot hold (`NaN`, `1e400`) is kept as its text, and half of a
surrogate pair is replaced, as in rows.
"""

from __future__ import annotations

import json
import math

from proxy.call import Json


def read(text: str) -> Json:
    """The value. Raises ValueError or RecursionError where there is none."""
    value: Json = _LENIENT.decode(text)
    return _mended(value) if "\\u" in text else value


def is_object(text: str) -> bool:
    """Whether the text is an object that every reader of JSON takes."""
    try:
        value: Json = _STRICT.decode(text)
        return isinstance(value, dict) and ("\\u" not in text or _mended(value) == value)
    except (ValueError, RecursionError):
        return False


def _real(literal: str) -> float | str:
    number = float(literal)
    return number if math.isfinite(number) else literal


def _refused(literal: str) -> None:
    raise ValueError(f"{literal} is no JSON")


def _mended(value: Json) -> Json:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {str(_mended(name)): _mended(item) for name, item in value.items()}
    return value


_LENIENT = json.JSONDecoder(parse_float=_real, parse_constant=str)
_STRICT = json.JSONDecoder(parse_constant=_refused)
