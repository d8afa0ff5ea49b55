"""Gemini's streamed arguments: values at JSON paths, one after the other, built into one object.

`{"jsonPath": "$.recipe.steps[0]", "stringValue": "Preheat", "willContinue": true}` sets a member
or, where the same path went before, continues its string. Paths of another form are refused.

Source: https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/function-calling
"""

from __future__ import annotations

import re

from proxy.call import Json
from proxy.decode.jsonvalue import members, string

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d{1,5})\]|\['([^']*)'\]|\[\"([^\"]*)\"\]")
_VALUES = ("stringValue", "numberValue", "boolValue")
_STEPS_MAX = 64
_GAP_MAX = 64  # elements that may be missing before one that is set


def set_partial(arguments: dict[str, Json], partial: Json) -> bool:
    """Apply one partial argument. False where it cannot be placed."""
    given = members(partial)
    steps = _steps(string(given.get("jsonPath")))
    if not steps:
        return False
    value = next((given[name] for name in _VALUES if given.get(name) is not None), None)
    place: Json = arguments
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if following is None:
            return _put(place, step, value)
        empty: Json = [] if isinstance(following, int) else {}
        found = _get(place, step)
        if found is None:
            if not _put(place, step, empty):
                return False
            found = _get(place, step)
        place = found
    return False


def _steps(path: str) -> list[str | int]:
    if not path.startswith("$"):
        return []
    steps: list[str | int] = []
    end = 1
    for found in _STEP.finditer(path, 1):
        if found.start() != end or len(steps) == _STEPS_MAX:
            return []
        name, position, *quoted = found.groups()
        steps.append(int(position) if position else name or quoted[0] or quoted[1] or "")
        end = found.end()
    return steps if end == len(path) else []


def _get(place: Json, step: str | int) -> Json:
    if isinstance(place, dict) and isinstance(step, str):
        return place.get(step)
    if isinstance(place, list) and isinstance(step, int) and step < len(place):
        return place[step]
    return None


def _put(place: Json, step: str | int, value: Json) -> bool:
    before = _get(place, step)
    if isinstance(before, str) and isinstance(value, str):
        value = before + value
    if isinstance(place, dict) and isinstance(step, str):
        place[step] = value
        return True
    if isinstance(place, list) and isinstance(step, int) and step <= len(place) + _GAP_MAX:
        place.extend([None] * (step + 1 - len(place)))
        place[step] = value
        return True
    return False
