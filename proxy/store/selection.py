"""Selection: which rows a reader wants, as SQL with parameters. Pure.

Column names come from this file, values only ever travel as parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

_IS_ERROR = (
    "(record_type = 'llm_call' AND outcome <> 'complete'"
    " OR record_type = 'turn_summary' AND stop_reason IS DISTINCT FROM 'completed')"
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows that meet every condition that is set. `since` is inclusive, `until` is not."""

    project: str | None = None
    session: str | None = None
    model: str | None = None
    errors: bool = False  # only calls that were not complete and turns that were not completed
    turns: bool = False  # only turn summaries
    since: datetime | None = None
    until: datetime | None = None

    def where(self, *given: Any) -> tuple[str, list[Any]]:
        """The condition and all parameters; `given` are the first of them, $1 and so on."""
        values = list(given)
        conditions = ["TRUE"]
        for condition, value in (
            ("project_id = $", self.project),
            ("session_id = $", self.session),
            ("model_used = $", self.model),
            ("created_at >= $", self.since),
            ("created_at < $", self.until),
        ):
            if value is not None:
                values.append(value)
                conditions.append(f"{condition}{len(values)}")
        if self.errors:
            conditions.append(_IS_ERROR)
        if self.turns:
            conditions.append("record_type = 'turn_summary'")
        return " AND ".join(conditions), values
