"""An answer as it grows: text, thoughts, tool calls and usage, event by event.

Shared by all dialects; knows none of them. A dialect names each event's offset with `reach`, then
adds what the event brings. Empty pieces add nothing, so `text` stays None where nothing was said.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from proxy.call import Answer, Json, ToolCall, Usage
from proxy.decode.arguments import tool_call
from proxy.decode.body import Body
from proxy.decode.problems import Problems


@dataclass(slots=True)
class PartialCall:
    """A tool call whose arguments may still grow. `order` is its place among the others."""

    order: int
    id: str | None = None
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    value: Json = None  # arguments that came parsed
    is_server: bool = False

    def finished(self) -> ToolCall:
        arguments = "".join(self.pieces) or self.value
        return tool_call(self.id, self.name, arguments, self.is_server)


@dataclass(slots=True)
class Choice:
    """One of the alternatives an answer offers; nearly always the only one."""

    text: list[str] = field(default_factory=list)
    thoughts: dict[Hashable, list[str]] = field(default_factory=dict)  # by block
    calls: list[PartialCall] = field(default_factory=list)
    audio: list[dict[str, Json]] = field(default_factory=list)  # deltas of speech
    latest: dict[Hashable, PartialCall] = field(default_factory=dict)  # calls, by any name
    finish_reason: str | None = None
    is_refusal: bool = False
    runs: int = 0  # of thoughts without anything between them
    is_thinking: bool = False

    def whole_text(self) -> str | None:
        return "".join(self.text) or None

    def whole_thoughts(self) -> str | None:
        blocks = ("".join(block) for block in self.thoughts.values())
        return "\n\n".join(block for block in blocks if block) or None

    def tool_calls(self) -> tuple[ToolCall, ...]:
        ordered = sorted(self.calls, key=lambda call: call.order)
        return tuple(call.finished() for call in ordered)

    def as_json(self, index: int) -> dict[str, Json]:
        found: dict[str, Json] = {"index": index, "text": self.whole_text()}
        if self.thoughts:
            found["thoughts"] = self.whole_thoughts()
        if self.calls:
            found["tool_calls"] = [call.as_json() for call in self.tool_calls()]
        found["finish_reason"] = self.finish_reason
        return found


@dataclass(slots=True)
class Growing:
    """The answer read so far."""

    problems: Problems
    is_plain: bool = False  # one JSON document, no stream
    model: str | None = None
    response_id: str | None = None
    usage: Usage | None = None
    is_usage_final: bool = False
    error: str | None = None
    is_terminated: bool = False
    has_finished_item: bool = False
    choices: dict[int, Choice] = field(default_factory=dict)
    media: list[Json] = field(default_factory=list)
    first_content: int | None = None  # offset behind the event that brought it
    _offset: int = 0

    def reach(self, offset: int) -> None:
        """What is added from now on came with the event that ends at this offset."""
        self._offset = offset

    def touch(self) -> None:
        """Content came that is added elsewhere or not at all."""
        if self.first_content is None:
            self.first_content = self._offset

    def show(self, part: Json) -> None:
        """A medium came: the part that holds it."""
        self.touch()
        self.media.append(part)

    def choice(self, index: int = 0) -> Choice:
        found = self.choices.get(index)
        if found is None:
            found = self.choices[index] = Choice()
        return found

    def say(self, text: str, choice: int = 0) -> None:
        if text:
            self.touch()
            place = self.choice(choice)
            place.text.append(text)
            place.is_thinking = False

    def refuse(self, text: str, choice: int = 0) -> None:
        """Text that says what the model would not do: it counts as text."""
        if text:
            self.say(text, choice)
            self.choice(choice).is_refusal = True

    def think(self, text: str, block: Hashable = None, choice: int = 0) -> None:
        """A thought or a delta of one. Where a dialect has no blocks, a run of thoughts is one."""
        if text:
            self.touch()
            place = self.choice(choice)
            if not place.is_thinking:
                place.is_thinking = True
                place.runs += 1
            key = ("run", place.runs) if block is None else block
            place.thoughts.setdefault(key, []).append(text)

    def call(self, key: Hashable, choice: int = 0) -> PartialCall:
        """The call of this key, begun where there is none yet."""
        return self.choice(choice).latest.get(key) or self.begin_call(key, choice)

    def begin_call(
        self, key: Hashable = None, choice: int = 0, order: int | None = None
    ) -> PartialCall:
        """A new call, which from now on is the one of this key."""
        self.touch()
        place = self.choice(choice)
        place.is_thinking = False
        call = PartialCall(len(place.calls) if order is None else order)
        place.calls.append(call)
        if key is not None:
            place.latest[key] = call
        return call

    def finish(self, reason: str | None, choice: int = 0) -> None:
        if reason:
            self.choice(choice).finish_reason = reason

    def finish_reason(self) -> str | None:
        """Why the first choice ended, if it did."""
        return self.choices[min(self.choices)].finish_reason if self.choices else None

    def fail(self, error: str) -> None:
        """The provider reported an error. The first one counts."""
        self.error = self.error or error

    def all_finished(self) -> bool:
        """Whether every choice has its finish reason."""
        return bool(self.choices) and all(c.finish_reason for c in self.choices.values())

    def answer(self, body: Body) -> Answer:
        """The answer as far as it came. `body` tells when its content arrived."""
        first = min(self.choices, default=0)
        main = self.choices.get(first) or Choice()
        is_whole = self.is_terminated or (self.is_plain and self._offset > 0)
        usage = self.usage and replace(self.usage, is_final=is_whole or self.is_usage_final)
        arrival = None
        if self.first_content is not None and not self.is_plain:
            arrival = body.arrival_us(self.first_content)
        return Answer(
            model=self.model,
            text=main.whole_text(),
            thoughts=main.whole_thoughts(),
            tool_calls=main.tool_calls(),
            usage=usage,
            finish_reason=main.finish_reason,
            is_refusal=main.is_refusal,
            choices=tuple(c.as_json(i) for i, c in sorted(self.choices.items()) if i != first),
            media=tuple(self.media),
            response_id=self.response_id,
            is_stream=not self.is_plain,
            is_terminated=is_whole,
            has_finished_item=self.has_finished_item,
            error=self.error,
            is_stream_error=self.error is not None,
            first_content_us=arrival,
            problems=self.problems.as_tuple(),
        )
