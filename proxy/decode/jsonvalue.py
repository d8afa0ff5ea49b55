"""JSON of other people: reading it whatever it holds, and looking into it without assumptions.

The only place in `decode` that parses JSON. `read_json` is total: it gives a value or `BROKEN`,
and says in `problems` what it had to bend. The look-ups below it never raise either: a member
that is missing or of another type is the empty value of the type asked for.

Rules for what JSON forbids or Python cannot hold:
- bytes that are no UTF-8 are replaced (U+FFFD), lone surrogates are kept as they are;
- `NaN`, `Infinity`, numbers beyond a double and integers of more digits than Python converts
  are kept as their text;
- the last of duplicate keys wins, as it does at the providers;
- a document nested deeper than the interpreter's stack allows is broken.
"""

from __future__ import annotations

import json
import math
from enum import Enum
from typing import Final, Literal

import orjson

from proxy.call import Json
from proxy.decode.problems import Problems


class _Broken(Enum):
    BROKEN = "broken"


BROKEN: Final = _Broken.BROKEN
Broken = Literal[_Broken.BROKEN]

# int() refuses more by default (sys.int_info.default_max_str_digits); fixed here so that the
# result does not depend on how the interpreter was started.
INTEGER_DIGITS_MAX = 4000

# orjson turns integers beyond 64 bits into doubles. A run of 19 digits is the shortest that may be
# one; mapping all digits to one byte makes the search for such a run a plain substring search.
_DIGITS_TO_ZERO = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_LONG_RUN = b"0" * 19


def read_json(data: bytes, problems: Problems, what: str = "JSON") -> Json | Broken:
    """The value of a JSON document, or BROKEN. `what` names it in problems."""
    if _LONG_RUN not in data.translate(_DIGITS_TO_ZERO):
        try:
            found: Json = orjson.loads(data)
            return found
        except orjson.JSONDecodeError:
            pass  # also what only orjson refuses: NaN, lone surrogates, bytes that are no UTF-8
    return _read_leniently(data, problems, what)


def _read_leniently(data: bytes, problems: Problems, what: str) -> Json | Broken:
    text = data.decode("utf-8-sig", "replace")
    if "\ufffd" in text and "\ufffd".encode() not in data:
        problems.add(f"{what} is not valid UTF-8")
    bent: list[str] = []
    try:
        found: Json = _decoder(bent).decode(text)
    except RecursionError:
        problems.add(f"{what} is nested too deep")
        return BROKEN
    except ValueError:
        return BROKEN
    if bent:
        problems.add(f"{what} holds numbers that are kept as text")
    return found


def _decoder(bent: list[str]) -> json.JSONDecoder:
    def kept(literal: str) -> str:
        bent.append(literal)
        return literal

    def integer(literal: str) -> int | str:
        return int(literal) if len(literal) <= INTEGER_DIGITS_MAX else kept(literal)

    def real(literal: str) -> float | str:
        number = float(literal)
        return number if math.isfinite(number) else kept(literal)

    # strict=False: control characters inside strings are wrong but unambiguous.
    return json.JSONDecoder(parse_int=integer, parse_float=real, parse_constant=kept, strict=False)


def members(value: Json | Broken) -> dict[str, Json]:
    """The members of an object; none of anything else."""
    return value if isinstance(value, dict) else {}


def elements(value: Json) -> list[Json]:
    """The elements of an array; none of anything else."""
    return value if isinstance(value, list) else []


def string(value: Json) -> str:
    """A string; the empty one for anything else."""
    return value if isinstance(value, str) else ""


def word(value: Json) -> str | None:
    """A string that is not empty; None for anything else."""
    return value if isinstance(value, str) and value else None


def whole(value: Json) -> int | None:
    """A count: an integer, also where it is written as a double. None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def first_count(value: dict[str, Json], *names: str) -> int | None:
    """The first of these members that is a count."""
    return next((n for name in names if (n := whole(value.get(name))) is not None), None)


def at(value: Json | Broken, *path: str | int) -> Json:
    """What lies at the end of a path of member names and positions; None where it breaks off."""
    found: Json | Broken = value
    for step in path:
        if isinstance(step, str):
            found = members(found).get(step)
        elif isinstance(found, list) and -len(found) <= step < len(found):
            found = found[step]
        else:
            return None
    return None if found is BROKEN else found
