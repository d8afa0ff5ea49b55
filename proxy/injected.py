"""Texts in the user role that a client puts in and no person typed, as data in one place.

Read by `decode` (what the user's message is) and by `enrich` (what begins a turn). Seen in the
traffic of Claude Code, Codex, Gemini CLI, Pydantic AI, LangChain and smolagents; a client with
another habit is a row more. Pure, and linear in the length of the text.

Three forms: elements (`<system-reminder>…</system-reminder>`), which may stand beside typed words
in one text; whole texts, known by how they begin; and the sections in which smolagents writes tasks
and results of tools into one text.
"""

from __future__ import annotations

import re
from enum import StrEnum

from proxy.nouns import noun


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
    ("Here is a summary of the conversation to date:", Injection.SUMMARY),  # LangChain
    ("<role>\nContext Extraction Assistant\n", Injection.SUMMARY_REQUEST),
    ("CRITICAL: Respond with TEXT ONLY", Injection.SUMMARY_REQUEST),
    ("You are performing a CONTEXT CHECKPOINT COMPACTION", Injection.SUMMARY_REQUEST),
)
_STARTS = tuple(beginning.rstrip() for beginning, _ in _BEGINNINGS)
_TITLED = re.compile(r"<session>\n(.*)\n</session>", re.DOTALL)  # what was typed, to be named


# Tools that hand in the answer instead of doing something: whoever calls one is done. smolagents;
# Pydantic AI (with a suffix where there are several); Gemini CLI; Cline; OpenHands.
FINAL_TOOLS = ("final_answer", "final_result", "complete_task", "attempt_completion", "finish")

# smolagents writes calls and results into texts.
CALLING = "Calling tools:\n["
_SECTION = re.compile(r"(?:\A|\n)(New task|Observation|Error):\n")
_RETRY = "Now let's retry: take care not to repeat previous errors!"


@noun(frozen=True, slots=True)
class Reading:
    """One text of the user role: what a person typed of it, and why the rest is there."""

    typed: str
    injections: frozenset[Injection] = frozenset()
    summary: str = ""  # the whole text, where it stands in place of messages
    results: tuple[tuple[str, bool], ...] = ()  # of tools: text, and whether it is an error


def is_final_tool(name: str) -> bool:
    """Whether a call of this tool is the agent's answer."""
    return name in FINAL_TOOLS or name.startswith("final_result_")


def read(text: str, *, follows_call: bool = False) -> Reading:
    """Part a text into what was typed and what was put in.

    `follows_call`: what the model said before was a call written as text (`CALLING`).
    """
    if text.startswith("New task:\n") or (follows_call and _SECTION.match(text)):
        return _sections(text)
    rest, found = _without_elements(text) if "<" in text else (text, set[Injection]())
    stripped = rest.strip()
    if stripped.startswith("<session>\n") and (titled := _TITLED.fullmatch(stripped)):
        return Reading(titled[1].strip(), frozenset(found | {Injection.TITLE_REQUEST}))
    if stripped.startswith(_STARTS):
        injection = next(
            kind
            for start, (_, kind) in zip(_STARTS, _BEGINNINGS, strict=True)
            if stripped.startswith(start)
        )
        summary = stripped if injection is Injection.SUMMARY else ""
        return Reading("", frozenset(found | {injection}), summary)
    return Reading(stripped if found else text, frozenset(found))


def typed(text: str, *, follows_call: bool = False) -> str:
    """What a person typed of a text; empty where all of it was put in."""
    return read(text, follows_call=follows_call).typed


def _sections(text: str) -> Reading:
    """A text in sections; one that is no error belongs to the section before it."""
    tasks: list[str] = []
    results: list[tuple[str, bool]] = []
    pieces = _SECTION.split(text)[1:]
    for name, body in zip(pieces[::2], pieces[1::2], strict=True):
        if name == "New task":
            tasks.append(body)
        elif name == "Observation" or _RETRY in body:
            results.append((body, name == "Error"))
        elif tasks:
            tasks[-1] += f"\n{name}:\n{body}"
    return Reading("\n".join(tasks).strip(), results=tuple(results))


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
