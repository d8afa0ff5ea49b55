"""The neutral form of a conversation: what every dialect is read into and every format made from.

Values only. What cannot be said in this form raises `Unconvertible`: the example is left out, with
the reason, and the others go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from proxy.call import Json


class Unconvertible(Exception):
    """A conversation that a data set cannot hold; the text says why, without content."""


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    text: str
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class Media:
    """A picture, sound or document: as base64, or where it lies."""

    kind: str  # image, audio, video or file
    media_type: str
    data: str | None = None
    url: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Called:
    """A tool call. `text` is the argument text as the model wrote it, where that is known."""

    id: str
    name: str
    arguments: dict[str, Json]
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool gave back. `name` is the tool's, as its call says."""

    id: str
    name: str
    content: tuple[Text | Media, ...]
    is_error: bool = False


Part = Text | Thought | Media | Called | Result


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Results of tools stand alone in messages of the role TOOL."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All words of the message: the model's with nothing between, others' as paragraphs."""
        between = "" if self.role is Role.ASSISTANT else "\n\n"
        return between.join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def thoughts(self) -> str:
        return "\n\n".join(part.text for part in self.parts if isinstance(part, Thought))

    @property
    def calls(self) -> tuple[Called, ...]:
        return tuple(part for part in self.parts if isinstance(part, Called))

    @property
    def results(self) -> tuple[Result, ...]:
        return tuple(part for part in self.parts if isinstance(part, Result))

    @property
    def media(self) -> tuple[Media, ...]:
        return tuple(part for part in self.parts if isinstance(part, Media))


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Json]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a model was given and what it answered: the last message is its own."""

    system: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one history."""

    system: str
    messages: tuple[Message, ...]  # without an answer
    chosen: Message
    rejected: Message
    tools: tuple[Tool, ...] = ()


def without_thoughts(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The messages without what the model only thought; one that was nothing else is gone."""
    bare = (
        Message(m.role, tuple(part for part in m.parts if not isinstance(part, Thought)))
        for m in messages
    )
    return tuple(message for message in bare if message.parts)
