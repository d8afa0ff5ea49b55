"""HTML: templates and what they may call. Everything is escaped; nothing foreign is ever markup."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from proxy.views.lines import count, duration, one_line
from proxy.views.web.address import query_string

_GOOD = ("complete", "completed")
_SOFT = ("client_disconnected", "user_aborted", "abandoned", "max_tokens", "round_cap", "refused")


def render(template: str, **context: Any) -> str:
    """A page. Raises jinja2.UndefinedError where the context lacks something: our own fault."""
    return _environment().get_template(f"{template}.html").render(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("proxy.views.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": lambda ms: duration(None if ms is None else int(ms)),
        "count": count_of,
        "bytes": size,
        "number": lambda number: "–" if number is None else f"{number:,}".replace(",", "\u202f"),
        "money": money,
        "share": share,
        "time": _time,
        "minute": _minute,
        "line": lambda text, limit=160: "" if text is None else one_line(str(text), limit),
        "tone": tone,
        "query": lambda values: query_string(values),
        "percent": lambda value: f"{value:.2f}%",
    }
    return environment


def tone(end: Any) -> str:
    """How an ending or outcome looks: good, soft (the agent's or the person's doing), bad, open."""
    text = str(end or "")
    if not text:
        return "open"
    return "good" if text in _GOOD else "soft" if text.startswith(_SOFT) else "bad"


def count_of(number: Any) -> str:
    """`950`, `1.2k`, `210k`, `3.4M`."""
    return count(None if number is None else int(number))


def size(number: int) -> str:
    """Bytes as `12 MB`."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f}\u2009{unit}"
        value /= 1000
    return f"{value:.1f}\u2009TB"


def money(amount: Any) -> str:
    """US dollars, small amounts with the digits that tell them apart."""
    if amount is None:
        return "–"
    value = Decimal(amount)
    if value == 0 or abs(value) >= Decimal("0.1"):
        return f"${value:,.2f}"
    return f"${value:.4f}"


def share(part: Any, whole: Any) -> str:
    return f"{100 * part / whole:.0f}\u2009%" if part is not None and whole else "–"


def _time(instant: datetime | None) -> str | Markup:
    """An instant; the page's script writes it in the reader's own time."""
    if instant is None:
        return "–"
    at = instant.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), at.strftime("%m-%d %H:%M:%S")
    )


def _minute(instant: datetime) -> Markup:
    """An instant on an axis, without seconds."""
    at = instant.astimezone(UTC)
    return Markup('<time datetime="{}" data-short>{}</time>').format(
        at.strftime("%Y-%m-%dT%H:%M:%SZ"), at.strftime("%m-%d %H:%M")
    )
