"""Address: what a page shows, as its query string says, and back. Pure.

Every view can be shared by its address: all filters are in it, and nothing else is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

VALUE_CHARS_MAX = 1000
_CURSOR = re.compile(r"([0-9T:.+-]{10,40})~([0-9a-f-]{36})")
_UNFIT = re.compile("[\0\ud800-\udfff]")  # what no text of the database can hold
_WORD = re.compile(r"(\w+)(\*?)")
WORDS_MAX = 20
KINDS = ("calls", "turns")


class BadAddress(ValueError):
    """An address that cannot be answered. The text names the field and how to write it."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of the page before."""

    at: datetime
    id: UUID

    def __str__(self) -> str:
        return f"{self.at.isoformat()}~{self.id}"


@dataclass(frozen=True, slots=True)
class Filters:
    """The fields of all pages; each page uses those that it names. None: not asked for."""

    project: str | None = None
    session: str | None = None
    model: str | None = None
    outcome: str | None = None  # of a call, or how a turn ended
    errors: bool = False
    kind: str | None = None
    q: str | None = None
    since: str | None = None
    by: str | None = None
    after: Cursor | None = None
    at: UUID | None = None  # a call that the page shall hold

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise BadAddress(f"kind: {self.kind!r} is unknown; write one of {', '.join(KINDS)}")
        if self.by not in (None, "model", "project"):
            raise BadAddress(f"by: {self.by!r} is unknown; write model or project")

    @property
    def is_narrowed(self) -> bool:
        """Whether anything but the time and the place in the list is asked for."""
        rest = replace(self, since=None, after=None, by=None, at=None)
        return any(getattr(rest, field.name) for field in fields(rest))

    @property
    def words(self) -> str | None:
        """The search as `to_tsquery` takes it: every word; `begin*` for what begins so."""
        found = _WORD.findall(self.q or "")[:WORDS_MAX]
        return " & ".join(f"{word}:*" if star else word for word, star in found) or None

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether a row that was just stored is asked for (as the queries ask)."""
        is_turn = row["record_type"] == "turn_summary"
        end = row["stop_reason"] or row["outcome"] or ""
        return (
            (self.project is None or row["project_id"] == self.project)
            and (self.session is None or row["session_id"] == self.session)
            and (self.model is None or row["model_used"] == self.model)
            and (self.outcome is None or self.outcome == end)
            and (not self.errors or end not in ("complete", "completed"))
            and (self.kind is None or is_turn == (self.kind == "turns"))
        )

    def query(self, **changes: Any) -> str:
        """The query string, `?` included, with some fields changed; empty where all are unset."""
        values = {field.name: getattr(self, field.name) for field in fields(self)} | changes
        return query_string(values)


def filters_of(query: Mapping[str, str]) -> Filters:
    """The fields of a query string; unknown ones are left out. Raises BadAddress."""
    values: dict[str, Any] = {}
    for field in fields(Filters):
        text = query.get(field.name, "")
        if text == "" or (field.name == "q" and not text.strip()):
            continue
        if len(text) > VALUE_CHARS_MAX or _UNFIT.search(text):
            raise BadAddress(f"{field.name}: write up to {VALUE_CHARS_MAX} characters of text")
        values[field.name] = text
    if "errors" in values:
        values["errors"] = values["errors"] not in ("0", "false")
    if "after" in values:
        values["after"] = _cursor_of(values["after"])
    if "at" in values:
        try:
            values["at"] = UUID(values["at"])
        except ValueError:
            raise BadAddress("at: write the id of a call, a UUID") from None
    return Filters(**values)


def query_string(values: Mapping[str, Any]) -> str:
    given = {
        name: "1" if value is True else str(value)
        for name, value in values.items()
        if value is not None and value is not False and value != ""
    }
    return f"?{urlencode(given, quote_via=quote)}" if given else ""


def _cursor_of(text: str) -> Cursor:
    found = _CURSOR.fullmatch(text.replace(" ", "+"))
    try:
        if found is None:
            raise ValueError
        return Cursor(datetime.fromisoformat(found[1]).astimezone(UTC), UUID(found[2]))
    except (ValueError, OverflowError):
        raise BadAddress("after: is no place in a list; begin at its first page") from None
