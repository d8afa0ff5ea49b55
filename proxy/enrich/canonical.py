"""Canonical form: a conversation without what clients change between rounds.

Messages of every dialect become parts (said, called, result, typed …) by their shape alone, since
one program may speak several dialects. Left out: `cache_control` marks, key order, white space,
thinking and its signatures, instructions, what the provider's own tools did, and the texts that
clients put in (`proxy/injected.py`). VERSION is raised with every change of the form.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import orjson

from proxy.call import Json
from proxy.injected import CALLING, Injection, Reading, read
from proxy.nouns import noun

VERSION = 3
PLAIN_KEPT_CHARS = 16_384

_MODEL_ROLES = ("assistant", "model", "CHATBOT")
_TOOL_ROLES = ("tool", "function")
_INSTRUCTIONS = ("system", "developer")
# Items of Responses that the client runs; other `…_call` items are the provider's own tools.
_CALL_ITEMS = (
    *("function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call"),
    "computer_call",
)
WRITTEN_CHARS_MAX = 65_536  # of calls written as text
_ARGUMENTS = ("arguments", "input", "action", "operation", "args")


@noun(frozen=True, slots=True)
class Typed:
    """A user's message: what was typed of it, text by text, and what the client put in."""

    texts: tuple[str, ...] = ()
    injections: frozenset[Injection] = frozenset()
    summary: str = ""  # a text that stands in place of messages that were removed
    other: tuple[str, ...] = ()  # kinds of pictures, documents and the like


@noun(frozen=True, slots=True)
class Said:
    text: str


@noun(frozen=True, slots=True)
class Called:
    name: str
    arguments: Json
    id: str | None = None


@noun(frozen=True, slots=True)
class Result:
    output: str
    id: str | None = None
    name: str | None = None
    is_error: bool | None = None  # None: nothing says so
    is_text: bool = False  # written into a text by the client, one for all calls of a round


Part = Typed | Said | Called | Result


def parts_of(history: Sequence[Json], before: Json = None) -> Iterator[Part]:
    """The parts of a history in any dialect, in order; `before` is the message before it, if any.

    Never raises.
    """
    follows_call = _is_written_call(before)
    for message in history:
        if isinstance(message, str):
            yield _typed([read(message)])
        elif isinstance(message, dict):
            yield from _message(message, follows_call=follows_call)
            follows_call = _is_written_call(message)


def _is_written_call(message: Json) -> bool:
    """Whether the client wrote a call of the model's into its text."""
    if not isinstance(message, dict) or message.get("role") not in _MODEL_ROLES:
        return False
    texts = (part.get("text") if isinstance(part, dict) else part for part in _content(message))
    return any(isinstance(text, str) and CALLING in text for text in texts)


def _message(message: dict[str, Json], *, follows_call: bool) -> Iterator[Part]:
    kind = message.get("type")
    role = message.get("role") or "user"
    if isinstance(kind, str) and kind.endswith("_output"):
        yield Result(_text(message.get("output")), _id(message, "call_id"))
    elif kind in _CALL_ITEMS:
        yield _called(message, "call_id")
    elif isinstance(kind, str) and kind != "message" and "role" not in message:
        return  # reasoning, references, the provider's own tools
    elif role in _TOOL_ROLES:
        name = message.get("name") or message.get("tool_name")
        output = _text(message.get("content"))
        yield Result(output, _id(message, "tool_call_id"), name if isinstance(name, str) else None)
    elif role in _MODEL_ROLES:
        yield from _of_model(message)
    elif role not in _INSTRUCTIONS:
        yield from _of_user(_content(message), follows_call=follows_call)


def _content(message: dict[str, Json]) -> list[Json]:
    content = message.get("content", message.get("parts"))
    if isinstance(content, list):
        return content
    return [] if content is None else [content]


def _of_model(message: dict[str, Json]) -> Iterator[Part]:
    for part in _content(message):
        if isinstance(part, str):
            yield from _said(part)
        elif isinstance(part, dict) and (use := _use(part)) is not None:
            yield use
        elif isinstance(part, dict) and not part.get("thought"):
            text = part.get("text", part.get("refusal"))
            if isinstance(text, str):
                yield from _said(text)
    if isinstance(refusal := message.get("refusal"), str):
        yield from _said(refusal)
    calls = message.get("tool_calls")
    for call in [*(calls if isinstance(calls, list) else ()), message.get("function_call")]:
        if isinstance(call, dict):
            function = call.get("function")
            inner = function if isinstance(function, dict) else call
            yield _called(inner, "id", outer=call)


def _said(text: str) -> Iterator[Part]:
    """What the model said; calls that the client wrote into it are calls again."""
    words, found, written = text.rpartition(CALLING)
    if not found:
        yield Said(text)
        return
    try:
        calls = ast.literal_eval(f"[{written}") if len(written) <= WRITTEN_CHARS_MAX else []
        functions = [(call["id"], call["function"]) for call in calls]
        made = [Called(str(f["name"]), _parsed(f["arguments"]), str(id)) for id, f in functions]
    except (ValueError, TypeError, KeyError, SyntaxError, MemoryError, RecursionError):
        yield Said(text)
        return
    yield Said(words)
    # Code that the model wrote as text is run by a tool which it did not call.
    yield from (call for call in made if call.name != "python_interpreter")


def _use(part: dict[str, Json]) -> Called | None:
    for name in ("toolUse", "functionCall", "function_call"):
        use = part.get(name)
        if isinstance(use, dict):
            return _called(use, "toolUseId" if name == "toolUse" else "id")
    return _called(part, "id") if part.get("type") == "tool_use" else None


def _called(call: dict[str, Json], id: str, outer: dict[str, Json] | None = None) -> Called:
    name = call.get("name") or call.get("type")
    arguments = next((call[key] for key in _ARGUMENTS if call.get(key) is not None), None)
    return Called(str(name), _parsed(arguments), _id(call if outer is None else outer, id))


def _of_user(content: list[Json], *, follows_call: bool) -> Iterator[Part]:
    texts: list[Reading] = []
    other: list[str] = []
    for part in content:
        if isinstance(part, str):
            texts.append(read(part, follows_call=follows_call))
        elif not isinstance(part, dict):
            continue
        elif (result := _result(part)) is not None:
            yield result
        elif isinstance(text := part.get("text"), str):
            texts.append(read(text, follows_call=follows_call))
        else:
            other.append(str(part.get("type") or next(iter(part), "")))
    results = [Result(*each, is_text=True) for text in texts for each in _results(text)]
    if follows_call:  # what is typed then stands behind the results, else before them
        yield from results
    if other or any(text.typed or not text.results for text in texts):
        yield _typed(texts, other)
    if not follows_call:
        yield from results


def _results(reading: Reading) -> Iterator[tuple[str, str | None, str | None, bool]]:
    return ((text, None, None, is_error) for text, is_error in reading.results)


def _result(part: dict[str, Json]) -> Result | None:
    if str(part.get("type")).endswith("tool_result"):
        flag = part.get("is_error")
        is_error = flag if isinstance(flag, bool) else None
        return Result(_text(part.get("content")), _id(part, "tool_use_id"), None, is_error)
    if isinstance(inner := part.get("toolResult"), dict):
        is_error = inner.get("status") == "error" if "status" in inner else None
        return Result(_text(inner.get("content")), _id(inner, "toolUseId"), None, is_error)
    inner = part.get("functionResponse", part.get("function_response"))
    if not isinstance(inner, dict):
        return None
    answer = inner.get("response")
    name = inner.get("name")
    return Result(
        _text(answer),
        _id(inner, "id"),
        name if isinstance(name, str) else None,
        True if isinstance(answer, dict) and set(answer) == {"error"} else None,
    )


def _typed(readings: Sequence[Reading], other: Sequence[str] = ()) -> Typed:
    return Typed(
        tuple(reading.typed for reading in readings if reading.typed.strip()),
        frozenset().union(*(reading.injections for reading in readings)),
        next((reading.summary for reading in readings if reading.summary), ""),
        tuple(other),
    )


def _text(value: Json) -> str:
    """The text of a result, whatever holds it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_text(part) for part in value)
    if isinstance(value, dict):
        inner = next((value[k] for k in ("text", "output", "error") if k in value), None)
        return inner if isinstance(inner, str) else written_value(value)
    return "" if value is None else written_value(value)


def _id(value: dict[str, Json], name: str) -> str | None:
    found = value.get(name)
    return found if isinstance(found, str) and found else None


def _parsed(arguments: Json) -> Json:
    """Arguments as a value, where their text is one; none or empty ones are `{}`."""
    if arguments is None or arguments == "":
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        found: Json = orjson.loads(arguments)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return arguments
    return found


def written_value(value: Any) -> str:
    """JSON text with sorted keys; equal for values that are equal as JSON."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError:  # more than 64 bits, lone surrogates, too deep
        try:
            return json.dumps(value, sort_keys=True)
        except (RecursionError, TypeError):
            return "…"


def clean(text: str) -> str:
    """The text as PostgreSQL and JSON can hold it."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return (
        text
        if text.isascii()
        else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    )


def plain(text: str) -> str:
    """Text without differences in white space."""
    return _plain(text) if len(text) <= PLAIN_KEPT_CHARS else " ".join(clean(text).split())


@lru_cache(maxsize=256)
def _plain(text: str) -> str:
    """An answer's text is asked for several times, as what was said and as what will be heard."""
    if text.isprintable() and "  " not in text:  # no white space but single blanks
        return text.strip(" ")
    return " ".join(clean(text).split())
