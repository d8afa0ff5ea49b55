"""The nouns of linking: what is known of a call, where it belongs, and how a turn ended.

`Facts` are taken from a record when it is made and kept beside the row in `agent_links`; linking
and endings are judged from them alone, so that nothing has to read the messages again. They hold
digests, names of tools and flags, no text: with `capture.content = "metadata"` they are all that
is kept of a conversation.
"""

from __future__ import annotations

from dataclasses import MISSING, field, fields
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from proxy.nouns import noun

RULES_VERSION = 1
"""Raised whenever the same facts come to be judged differently."""

CONVERSATIONS_KEPT = 4096  # ids that are not worked out again,
KEPT_CHARS_MAX = 255  # of names up to this length: an agent may send any


class End(StrEnum):
    """What kind of answer a call got."""

    TEXT = "text"  # words, and no tool for the client to run
    TOOLS = "tools"  # the client has tools to run
    EMPTY = "empty"
    LIMIT = "limit"  # cut by the token limit
    REFUSED = "refused"
    CUT = "cut"  # the agent closed the connection before the answer was whole
    FAILED = "failed"

    @property
    def is_answer(self) -> bool:
        """Whether the agent got a whole answer, of whatever kind."""
        return self not in (End.CUT, End.FAILED)


@noun(frozen=True, slots=True)
class CalledTool:
    """A tool call of an answer: digests of its id and of name and arguments."""

    name: str
    same: str  # equal for equal name and arguments
    id: str | None = None
    is_server: bool = False


@noun(frozen=True, slots=True)
class ToolResult:
    """A result that a request brings: what it answers, whether it failed, and how."""

    id: str | None = None
    name: str | None = None
    is_error: bool = False
    error: str | None = None  # equal for equal errors, once what changes at each call is taken out


@noun(frozen=True, slots=True)
class Facts:
    """What linking knows of one call.

    The history is a chain of atoms, each with the digest of the history up to and including it:
    `u` typed by a person, `n` a client's text alone, `s` a summary in place of removed messages,
    `r` results of tools, `m` what the model said or called. `kinds` and `chain` hold the last of
    them; `request` is the digest of the whole history, `continuation` that of the history with the
    answer after it. Some clients put what is typed after a call without an answer into the same
    message: `beginnings` are digests of what such a call had sent.
    """

    id: UUID
    created_at: datetime
    ended_at: datetime
    end: End
    version: int
    project: str | None = None
    session: str | None = None  # as the call itself says
    turn: str | None = None
    agent: str | None = None  # a sub-agent's id, as the call itself says
    program: str | None = None  # name and version of the program that called
    setting: str | None = None  # program, instructions, tools: tell histories apart
    side: str | None = None  # told by its own shape: title, router, compaction
    has_tools: bool = False
    is_partial: bool = False  # the wire held only what is new
    is_nudged: bool = False  # the client asked the model to go on
    is_textual: bool = False  # a program that writes calls and results into texts
    is_terse: bool = False  # no word of text in the answer
    round_cap: int | None = None
    kinds: str = ""
    chain: tuple[str, ...] = ()
    request: str | None = None
    beginnings: tuple[str, ...] = ()  # the history without the last texts of its last message
    continuation: str | None = None
    said: str | None = None  # the answer alone
    heard: str | None = None  # the last thing the model said in the history
    opening: tuple[str, ...] = ()  # the typed texts of a history without an answer
    handed: tuple[str, ...] = ()  # texts in the arguments of tools that the client runs
    seen: tuple[tuple[int, str], ...] = ()  # tools called in the history: (atoms after it, id)
    calls: tuple[CalledTool, ...] = ()
    results: tuple[ToolResult, ...] = ()  # what this request brings
    response: str | None = None  # the provider's id of the answer
    previous: str | None = None  # … of the answer that this call names as its predecessor

    @property
    def conversation(self) -> UUID | None:
        """The conversation that the call itself names."""
        return None if self.session is None else conversation_id(self.project, self.session)

    @property
    def open_tools(self) -> tuple[CalledTool, ...]:
        """The calls of the answer that the client has to run."""
        return tuple(call for call in self.calls if not call.is_server)

    @property
    def order(self) -> tuple[datetime, UUID]:
        return self.created_at, self.id

    def as_json(self) -> dict[str, Any]:
        """All members that differ from their defaults."""
        found: dict[str, Any] = {}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value != default:
                found[name] = value
        return found

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Facts:
        """The inverse of `as_json` as read back from JSON."""
        values = {name: value for name, value in raw.items() if name in _DEFAULTS}
        for name in ("chain", "beginnings", "opening", "handed"):
            values[name] = tuple(values.get(name, ()))
        return cls(
            **values
            | {
                "id": UUID(values["id"]),
                "created_at": datetime.fromisoformat(values["created_at"]),
                "ended_at": datetime.fromisoformat(values["ended_at"]),
                "end": End(values["end"]),
                "seen": tuple((int(at), id) for at, id in values.get("seen", ())),
                "calls": tuple(CalledTool(**call) for call in values.get("calls", ())),
                "results": tuple(ToolResult(**result) for result in values.get("results", ())),
            }
        )


_DEFAULTS: dict[str, Any] = {
    member.name: None if member.default is MISSING else member.default for member in fields(Facts)
}


@noun(frozen=True, slots=True)
class Link:
    """What is written beside a row: its facts, and the results of tools that it brought."""

    facts: Facts
    outputs: tuple[dict[str, Any], ...] = ()  # {"id", "name", "is_error", "output"}


class Kind(StrEnum):
    """How a call relates to what was before it."""

    OPENS = "opens"  # a thread, and with it a turn
    CONTINUES = "continues"
    RETRIES = "retries"  # a round that failed
    FORKS = "forks"  # a history that was already continued otherwise
    COMPACTED = "compacted"  # the thread, with a summary in place of its messages
    SUB_AGENT = "sub_agent"  # opens a thread on behalf of a tool call
    SIDE = "side"  # answers no user message


@noun(frozen=True, slots=True)
class Placement:
    """Where a call belongs. A side call has neither turn nor round."""

    session: str
    thread: UUID  # id of its first call
    kind: Kind
    turn: UUID | None = None
    round: int | None = None
    parent: UUID | None = None
    evidence: str = ""  # what the decision rests on, in a word or two
    version: int = RULES_VERSION

    def as_json(self) -> dict[str, Any]:
        return {member.name: getattr(self, member.name) for member in fields(self)}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Placement:
        """The inverse of `as_json` as read back from JSON."""

        def id_of(value: str | None) -> UUID | None:
            return UUID(value) if value else None

        return cls(
            **raw
            | {
                "thread": UUID(raw["thread"]),
                "kind": Kind(raw["kind"]),
                "turn": id_of(raw["turn"]),
                "parent": id_of(raw["parent"]),
            }
        )


@noun(frozen=True, slots=True)
class Turn:
    """All calls an agent made to answer one message, in order of time."""

    id: UUID
    session: str
    calls: tuple[Facts, ...]
    rounds: dict[UUID, int] = field(default_factory=dict)  # call → round
    successor: Facts | None = None  # the call that brought the thread's next message of a person
    active_until: datetime | None = None  # the last sign of life, its sub-agents' included

    @property
    def last(self) -> Facts:
        return self.calls[-1]

    @property
    def succeeded_at(self) -> datetime | None:
        """When the next message of a person came in the turn's thread."""
        return self.successor.created_at if self.successor else None

    @property
    def conversation(self) -> UUID:
        """The conversation that the turn belongs to."""
        return conversation_id(self.calls[0].project, self.session)

    @property
    def summary_id(self) -> UUID:
        """The id of the row that says how the turn ended."""
        return uuid5(self.id, "turn_summary")


@noun(frozen=True, slots=True)
class Ending:
    """How a turn ended: the reason, the rule that said so, and the calls it rests on."""

    stop_reason: str
    rule: str
    calls: tuple[UUID, ...] = ()


@noun(frozen=True, slots=True)
class Reported:
    """What an orchestrator reported of a turn."""

    id: UUID
    at: datetime
    conversation: UUID
    turn: UUID | None  # as the report names it
    said: dict[str, Any]  # columns of the turn's row, and labels
    applied_to: UUID | None = None  # the turn that it was applied to so far
    is_pending: bool = False


def conversation_id(project: str | None, session: str) -> UUID:
    """One id for the pair that identifies a conversation."""
    if len(session) > KEPT_CHARS_MAX or len(project or "") > KEPT_CHARS_MAX:
        return _conversation_id.__wrapped__(project, session)
    return _conversation_id(project, session)


@lru_cache(CONVERSATIONS_KEPT)
def _conversation_id(project: str | None, session: str) -> UUID:
    return uuid5(uuid5(NAMESPACE_OID, project or ""), session)


def turn_id(project: str | None, session: str, label: str) -> UUID:
    """The turn that a label names: the label itself where it is a UUID."""
    try:
        return UUID(label)
    except ValueError:
        return uuid5(conversation_id(project, session), label)
