"""Lines: one recorded call or turn as one line for people, or as one JSON object.

Shared by `tail` and by the console form of the log. Takes plain mappings of column values and
prints nothing itself. A line fits the given width; what does not is cut at its end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from proxy.log import escaped

WIDTH = 100
NARROW = 140  # below, what is least asked for gives way to what was said
_GOOD = ("complete", "completed")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BLANKS = re.compile(r"\s+")


def line(row: Mapping[str, Any], width: int = WIDTH, *, with_content: bool = True) -> str:
    """The row as one line of at most `width` characters, without colour."""
    is_narrow = width < NARROW
    if row.get("record_type") == "turn_summary":
        parts = _turn(row, is_narrow=is_narrow)
    else:
        parts = [*_call(row, is_narrow=is_narrow), *_whose(row, is_narrow=is_narrow)]
    if with_content:
        parts += _content(row, said_chars=20 if is_narrow else 60)
    text = escaped("  ".join(part for part in parts if part))
    return text if len(text) <= width else text[: width - 1] + "…"


def is_good(row: Mapping[str, Any]) -> bool:
    """Whether the call or turn ended as the agent wanted."""
    if row.get("record_type") == "turn_summary":
        return row.get("stop_reason") in _GOOD
    return row.get("outcome") in _GOOD


def duration(milliseconds: int | None) -> str:
    """`87ms`, `1.2s`, `3m12s`."""
    if milliseconds is None:
        return "-"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    if milliseconds < 100_000:
        return f"{milliseconds / 1000:.1f}s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes}m{seconds:02}s"


def count(number: int | None) -> str:
    """`950`, `1.2k`, `210k`, `3.4M`."""
    if number is None:
        return "-"
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            short = f"{number / size:.1f}" if number < 10 * size else f"{number / size:.0f}"
            return f"{short.removesuffix('.0')}{unit}"
    return str(number)


def dollars(amount: Any) -> str:
    """`$0.41`; of less than a cent the first two digits that are not zero."""
    if not amount or abs(amount) >= 0.01:
        return f"${amount:.2f}"
    return f"${amount:.{1 - Decimal(str(amount)).adjusted()}f}"


def one_line(text: str, limit: int) -> str:
    """The text on one line, white space squeezed, controls made visible, cut to `limit`."""
    squeezed = escaped(_BLANKS.sub(" ", text[: limit * 4]).strip())
    return squeezed if len(squeezed) <= limit else squeezed[: max(0, limit - 1)] + "…"


def _call(row: Mapping[str, Any], *, is_narrow: bool) -> list[str]:
    ended = "ok" if is_good(row) else str(row.get("outcome") or "?")
    status = row.get("status")
    first = None if is_narrow else row.get("ttft_ms")
    return [
        _clock(row.get("created_at")),
        f"{status or '---'} {ended}",
        one_line(str(row.get("model_used") or "unknown"), 18 if is_narrow else 28),
        duration(row.get("duration_ms")) + (f" (first {duration(first)})" if first else ""),
        f"{count(row.get('prompt_tokens'))}→{count(row.get('completion_tokens'))} tok",
        _tools(row.get("tool_calls")),
    ]


def _turn(row: Mapping[str, Any], *, is_narrow: bool) -> list[str]:
    """`turn session=… stop=… rounds=14 tools=13 tokens=210k/4k cache=92% cost=$0.41 3m12s`."""
    prompt, cached, cost = (row.get(k) for k in ("prompt_tokens", "cached_tokens", "cost_usd"))
    project = row.get("project_id")
    parts = [
        f"turn session={_short_id(row.get('session_id'))}",
        f"stop={one_line(str(row.get('stop_reason')), 60)}",
        f"rounds={row.get('rounds')} tools={row.get('tool_call_count')}",
        f"tokens={count(prompt)}/{count(row.get('completion_tokens'))}",
        f"cache={100 * cached // prompt}%" if prompt and cached and not is_narrow else "",
        f"cost={dollars(cost)}" if cost is not None else "",
        duration(row.get("duration_ms")),
        f"project={one_line(str(project), 20)}" if project and not is_narrow else "",
    ]
    return [_clock(row.get("created_at")), " ".join(part for part in parts if part)]


def _tools(calls: Any) -> str:
    if not isinstance(calls, list) or not calls:
        return ""
    names = [str(call.get("name")) for call in calls if isinstance(call, dict)]
    return one_line("⚒ " + ",".join(names), 30)


def _whose(row: Mapping[str, Any], *, is_narrow: bool) -> list[str]:
    keys = ("session_id",) if is_narrow else ("project_id", "session_id")
    names = [_short_id(row[key]) for key in keys if row.get(key)]
    return [one_line("/".join(names), 16 if is_narrow else 24)] if names else []


def _short_id(name: Any) -> str:
    """A UUID by its last part, which tells conversations of one minute apart; else the name."""
    text = str(name)
    return f"…{text[-8:]}" if _UUID.fullmatch(text) else one_line(text, 36)


def _content(row: Mapping[str, Any], said_chars: int) -> list[str]:
    said = str(row.get("user_message") or "")
    answered = str(row.get("error") or row.get("response_text") or "")
    parts = [f"“{one_line(said, said_chars)}”"] if said else []
    return parts + ([f"→ {one_line(answered, 120)}"] if answered else [])


def _clock(instant: Any) -> str:
    if not isinstance(instant, datetime):
        return "--:--:--"
    return instant.astimezone().strftime("%H:%M:%S")
