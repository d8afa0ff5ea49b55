"""Scripted conversations: what an agent would send, as records, without a wire.

A `Talk` keeps a history as an OpenAI agent does and hands it to each call; its clock only moves
where a script says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from proxy.config import Turns
from proxy.enrich.digests import Digests
from proxy.enrich.facts import link_of
from proxy.enrich.threads import place, turns_of
from proxy.enrich.turns import ending
from proxy.record import TelemetryRecord
from proxy.turn import Ending, Facts, Kind, Placement, Turn

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = BEGIN + timedelta(days=1)
DIGESTS = Digests(b"a secret of the tests")
TOOLS = [{"type": "function", "function": {"name": "read"}}]

_ids = count(1)


@dataclass
class Talk:
    """One agent's conversation, call by call."""

    session: str | None = None
    at: datetime = BEGIN
    has_ids: bool = True
    only_id: str | None = None  # of every call: some servers number them anew in each answer
    records: list[TelemetryRecord] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)
    typed: str | None = None

    def user(self, *texts: str) -> Talk:
        self.typed = texts[-1]
        content: Any = texts[0] if len(texts) == 1 else [{"type": "text", "text": t} for t in texts]
        self.messages.append({"role": "user", "content": content})
        return self

    def call(
        self,
        text: str | None = None,
        tools: Iterable[tuple[str, Any]] = (),
        *,
        is_kept: bool = True,
        seconds: float = 1,
        **columns: Any,
    ) -> Talk:
        """Send the history; where the answer is whole, it becomes part of it."""
        number = next(_ids)
        calls = [
            {"id": self._id(number, n), "name": name, "arguments": given}
            for n, (name, given) in enumerate(tools)
        ]
        usual = {
            "id": UUID(int=number),
            "created_at": self.at,
            "model_used": "model-1",
            "duration_ms": int(seconds * 1000),
            "chat_history": deepcopy(self.messages),
            "response_text": text,
            "tool_calls": calls or None,
            "session_id": self.session,
            "outcome": "complete",
            "finish_reason": "tool_calls" if calls else "stop",
            "request_params": {"tools": TOOLS},
            "user_message": self.typed,
            "prompt_tokens": 10,
            "completion_tokens": 2,
            "total_tokens": 12,
            "capture": {},
        }
        record = TelemetryRecord(**{**usual, **columns})
        self.records.append(record)
        self.at += timedelta(seconds=seconds + 1)
        if is_kept and record.outcome == "complete" and (text or calls):
            self.messages.append(_as_message(text, calls))
        return self

    def _id(self, number: int, position: int) -> str | None:
        return (self.only_id or f"call_{number}_{position}") if self.has_ids else None

    def results(self, *outputs: str) -> Talk:
        """Answer the tool calls of the last message."""
        for call, output in zip(self.messages[-1]["tool_calls"], outputs, strict=True):
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": output})
        return self

    def wait(self, seconds: float) -> Talk:
        self.at += timedelta(seconds=seconds)
        return self

    def branch(self, session: str | None = None) -> Talk:
        """Another agent that continues the same history, not counted in `records`."""
        told = deepcopy(self.messages)
        return Talk(session or self.session, self.at, self.has_ids, self.only_id, [], told)


def _as_message(text: str | None, calls: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        found["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
            }
            for call in calls
        ]
    return found


@dataclass
class Judgement:
    """What was made of some records."""

    facts: dict[UUID, Facts]
    placements: dict[UUID, Placement]
    turns: list[Turn]
    endings: list[Ending | None]

    @property
    def reasons(self) -> list[str | None]:
        return [found and found.stop_reason for found in self.endings]

    @property
    def rounds(self) -> list[int]:
        return [max(turn.rounds.values()) for turn in self.turns]

    @property
    def sessions(self) -> list[str]:
        return [self.placements[id].session for id in self.facts]

    @property
    def kinds(self) -> list[Kind]:
        return [self.placements[id].kind for id in self.facts]


def judged(*talks: Talk, now: datetime = LATER, settings: Turns | None = None) -> Judgement:
    """Judge all records of some conversations together, in order of time."""
    records = sorted((r for t in talks for r in t.records), key=lambda r: (r.created_at, r.id))
    facts = {record.id: link_of(record, DIGESTS).facts for record in records}
    found = place(facts.values())
    turns = turns_of(facts.values(), found)
    endings = [ending(turn, settings or Turns(), now) for turn in turns]
    return Judgement(facts, dict(found.placements), turns, endings)
