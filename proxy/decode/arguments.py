"""Arguments of tool calls: from what the model wrote to a value, and the text where that counts.

Databases sort the keys of a JSON object, drop duplicates and rewrite numbers; who trains on calls
needs what the model wrote. So `raw` keeps the text wherever value and text would not agree.
White space and the way characters are escaped do not count.
"""

from __future__ import annotations

import json
from itertools import pairwise

from proxy.call import Json, ToolCall
from proxy.decode.jsonvalue import BROKEN, read_json
from proxy.decode.problems import Problems


def tool_call(call_id: str | None, name: str, arguments: Json, is_server: bool = False) -> ToolCall:
    """A call from arguments given as JSON text, as an object, or not at all."""
    if isinstance(arguments, str):
        value, raw = _from_text(arguments)
    else:
        value, raw = ({} if arguments is None else arguments), _text_of(arguments)
    return ToolCall(call_id, name, value, raw, is_server)


def _from_text(text: str) -> tuple[Json, str | None]:
    if not text.strip():
        return {}, None
    value = read_json(text.encode("utf-8", "surrogatepass"), Problems())
    if value is BROKEN:
        return text, None
    if value is None:
        return {}, text  # a model that writes `null` means no arguments
    return value, None if _is_stable(text) else text


def _text_of(value: Json) -> str | None:
    """Text of an object that came parsed, where its keys are not in the order of a database."""
    if not isinstance(value, dict | list):
        return None
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return None
    return None if _is_stable(text) else text


def _is_stable(text: str) -> bool:
    """Whether a database's JSON value gives back this text but for white space and escapes."""
    changes: list[str] = []

    def pairs(found: list[tuple[str, Json]]) -> None:
        keys = [key for key, _ in found]
        if any(not _precedes(a, b) for a, b in pairwise(keys)):
            changes.append("keys")

    def number(literal: str) -> None:
        if not _is_plain_number(literal):
            changes.append(literal)

    decoder = json.JSONDecoder(
        object_pairs_hook=pairs,
        parse_int=number,
        parse_float=number,
        parse_constant=changes.append,
        strict=False,
    )
    try:
        decoder.decode(text)
    except (ValueError, RecursionError):
        return False
    return not changes


def _precedes(key: str, other: str) -> bool:
    """PostgreSQL's order of keys in JSONB: by length in bytes, then bytewise."""
    left, right = (name.encode("utf-8", "surrogatepass") for name in (key, other))
    return (len(left), left) < (len(right), right)


def _is_plain_number(literal: str) -> bool:
    """Whether a double or an integer of 64 bits is written back with the same digits."""
    if len(literal) > 20:
        return False
    is_integer = literal.lstrip("-").isdigit()
    return str(int(literal) if is_integer else float(literal)) == literal
