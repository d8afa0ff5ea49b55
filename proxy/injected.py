"""Texts in the user role that a client puts in and no person typed, as data in one place.

Read by `decode` (what the user's message is) and by `enrich` (what begins a turn). Seen in the
traffic of Claude Code, Codex, Gemini CLI and Pydantic AI; a client with another habit is a row
more. Pure, and linear in the length of the text.

Two forms: elements (`<system-reminder>…</system-reminder>`), which may stand beside typed words in
one text, and whole texts, known by how they begin.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Injection(StrEnum):
    """What a client's text is there for."""

    CONTEXT = "context"  # reminders, environment, results of local commands
    NUDGE = "nudge"  # asks the model to go on, or to answer differently
    ABORT = "abort"  # says that the person interrupted
    SUMMARY = "summary"  # stands in place of messages that were removed
    SUMMARY_REQUEST = "summary_request"  # asks for such a summary
    TITLE_REQUEST = "title_request"  # asks for the title of a conversation


_ELEMENTS: dict[str, Injection] = {
    **dict.fromkeys(
        (
            *("system-reminder", "environment_context", "session_context", "user_instructions"),
            *("local-command-caveat", "local-command-stdout", "local-command-stderr"),
            *("command-name", "command-message", "command-args", "environment_details"),
            *("ide_opened_file", "ide_selection"),
        ),
        Injection.CONTEXT,
    ),
    "turn_aborted": Injection.ABORT,
    "state_snapshot": Injection.SUMMARY,
}
_BEGINNINGS: tuple[tuple[str, Injection], ...] = (
    ("[Your previous response had no visible output", Injection.NUDGE),
    ("Output token limit hit. Resume directly", Injection.NUDGE),
    ("Continue from where you left off.", Injection.NUDGE),
    ("[System: You previously returned an empty response", Injection.NUDGE),
    ("You have stopped calling tools without finishing", Injection.NUDGE),
    ("Validation feedback:\n", Injection.NUDGE),
    ("[Request interrupted by user", Injection.ABORT),
    ("This session is being continued from", Injection.SUMMARY),
    ("Another language model started to solve", Injection.SUMMARY),
    ("CRITICAL: Respond with TEXT ONLY", Injection.SUMMARY_REQUEST),
    ("You are performing a CONTEXT CHECKPOINT COMPACTION", Injection.SUMMARY_REQUEST),
    ("<session>\n", Injection.TITLE_REQUEST),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One text of the user role: what a person typed of it, and why the rest is there."""

    typed: str
    injections: frozenset[Injection] = frozenset()


def read(text: str) -> Reading:
    """Part a text into what was typed and what was put in."""
    rest, found = _without_elements(text) if "<" in text else (text, set[Injection]())
    stripped = rest.strip()
    for beginning, injection in _BEGINNINGS:
        if stripped.startswith(beginning.rstrip()):
            return Reading("", frozenset(found | {injection}))
    return Reading(stripped if found else text, frozenset(found))


def typed(text: str) -> str:
    """What a person typed of a text; empty where all of it was put in."""
    return read(text).typed


def _without_elements(text: str) -> tuple[str, set[Injection]]:
    found: set[Injection] = set()
    for name, injection in _ELEMENTS.items():
        start = text.find(f"<{name}>")
        kept: list[str] = []
        at = 0
        while start >= 0:
            end = text.find(f"</{name}>", start)
            if end < 0:
                break  # no element: somebody writes about one
            found.add(injection)
            kept.append(text[at:start])
            at = end + len(name) + 3
            start = text.find(f"<{name}>", at)
        text = "".join((*kept, text[at:]))
    return text, found
