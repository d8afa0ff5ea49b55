"""Script: what a scripted provider answers, and with that what is true of every turn.

A `Scenario` is one run of an agent. Each of its agents has a key of its own (its API key, which
says nothing to whoever records) and turns; a turn is a list of `Step`s, the answers it gets one
after the other. Which request belongs to which turn and round follows from whose key it bears and
from how many came before it, so nothing has to be inferred to know the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One answer."""

    text: str = ""
    tools: tuple[tuple[str, Arguments], ...] = ()
    status: int = 200
    finish: str | None = None  # "length" or "refusal"
    is_cut: bool = False  # the provider breaks off
    is_hung_up: bool = False  # the provider stalls until the agent hangs up
    is_left: bool = False  # the agent hangs up as soon as it has the terminal event
    side: str | None = None  # the call answers no user message: title, compaction

    def left(self) -> Step:
        """The same answer, after which the agent hangs up."""
        return replace(self, is_left=True)

    @property
    def is_answer(self) -> bool:
        return self.status < 400 and not self.is_cut and not self.is_hung_up


@dataclass(frozen=True)
class Turn:
    """What a person asked, the answers, and how the turn truly ended."""

    user: str
    steps: tuple[Step, ...]
    ends: str = "completed"
    ends_bare: str | None = None  # where the wire without labels cannot tell as much
    cap: int | None = None  # rounds after which the agent gives up by itself
    aborts: bool = False  # the person stops the agent while it waits for the last answer
    tag: str = ""  # what a driver of its own makes of it


@dataclass(frozen=True)
class Scenario:
    """One run of one agent, with its sub-agents."""

    agent: str  # the driver: a framework, or "raw"
    name: str
    turns: tuple[Turn, ...]
    dialect: str = "chat"  # chat, responses, messages
    is_stream: bool = False
    tasks: dict[str, tuple[Turn, ...]] = field(default_factory=dict)  # of sub-agents, by their task
    sessions: int = 1
    sessions_bare: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    retries: int = 0  # that the SDK may make
    twins: int = 1  # agents that say the same at the same time, each in a session of its own

    @property
    def full_name(self) -> str:
        return f"{self.agent}/{self.name}"

    def scripts(self) -> dict[str, tuple[Turn, ...]]:
        """What is scripted for each API key: of the main agents, and of the sub-agents."""
        found = {f"{self.full_name}#{twin}": self.turns for twin in range(self.twins)}
        for number, turns in enumerate(self.tasks.values()):
            found[self.key_of_task(number)] = turns
        return found

    def headers_of(self, key: str) -> dict[str, str]:
        """What the calls under this key say of themselves where agents are labelled."""
        session = self.full_name
        if self.twins > 1:  # not the key itself: credentials are taken out of labels
            session += f", twin {key.rpartition('#')[2]}"
        return {"x-telemetry-session": session, **self.labels}

    def key_of_task(self, number: int) -> str:
        return f"{self.full_name}+{number}"

    def for_driver(self) -> dict[str, Any]:
        """What a driver has to know, as JSON."""
        return {
            "name": self.full_name,
            "dialect": self.dialect,
            "stream": self.is_stream,
            "keys": [f"{self.full_name}#{twin}" for twin in range(self.twins)],
            "turns": [
                {name: value for name, value in asdict(turn).items() if name != "steps"}
                for turn in self.turns
            ],
            "tasks": {task: self.key_of_task(n) for n, task in enumerate(self.tasks)},
            "retries": self.retries,
        }


@dataclass(frozen=True)
class Place:
    """Where a request belongs in truth."""

    turn: str
    round: int
    attempt: int
    role: str  # main, sub_agent, side:…
    step: Step


def places(key: str, turns: tuple[Turn, ...]) -> Iterator[Place]:
    """The true place of each request under this key, in order."""
    role = "sub_agent" if "+" in key else "main"
    for number, turn in enumerate(turns):
        name = f"{key}/{number + 1}"
        round_number, attempt = 1, 1
        for step in turn.steps:
            if step.side:
                yield Place(name, 0, 1, f"side:{step.side}", step)
                continue
            yield Place(name, round_number, attempt, role, step)
            if step.is_answer:
                round_number, attempt = round_number + 1, 1
            else:
                attempt += 1
