"""Results: which result of a tool answers which call, for whatever shows them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def results_of(call: Row, later: Sequence[Row], summary: Row | None) -> list[Row]:
    """What came back for a call: from its turn's summary, else from the next request."""
    if summary is not None:
        found = _listed(summary["tool_results"])
        return [result for result in found if result.get("round") == call["round"]]
    return next((found for other in later if (found := _listed(other["outputs"]))), [])


def answers(result: Row, tool: Row) -> bool:
    """Whether this is the result of that call: by id, or by name where it has none."""
    if result.get("id"):
        return bool(result["id"] == tool.get("id"))
    return result.get("name") in (None, tool.get("name"))


def _listed(value: Any) -> list[Row]:
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]
