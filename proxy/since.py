"""Since: the beginning of a span of time as people write it. Pure.

`90s`, `30m`, `24h`, `7d`, `4w` before now, or a date or an instant in ISO 8601 (UTC where it names
no zone).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_SPAN = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def instant_of(text: str, now: datetime) -> datetime:
    """The instant that the text means. Raises ValueError that says how to write it."""
    span = _SPAN.fullmatch(text.strip())
    try:
        if span:
            return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
        found = datetime.fromisoformat(text.strip())
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r}: write 24h, 7d, 2026-01-31 or 2026-01-31T12:00+02:00") from None
