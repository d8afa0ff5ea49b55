"""Pairing: every tool call with an id of its own, and every result with the call it answers. Pure.

Some dialects have no ids, some programs use one again, resumed histories hold a result twice. Who
trains on calls needs each with exactly one result; a history where that is not so is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from proxy.export.message import Called, Message, Part, Result, Role, Unconvertible


def paired(messages: Iterable[Message]) -> Iterator[Message]:
    """The messages with ids and names settled. Calls of the last one may be open."""
    return _Pairing().messages(messages)


@dataclass(slots=True)
class _Pairing:
    """Gives every call an id of its own, and results the id and name of the calls they answer."""

    open: list[tuple[str, Called]] = field(default_factory=list)  # by the id that results name
    used: set[str] = field(default_factory=set)

    def messages(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            if message.role is Role.TOOL:
                if results := tuple(self._answered(message.results)):
                    yield Message(Role.TOOL, results)
                continue
            if self.open:
                raise Unconvertible("a tool call without its result")
            yield Message(message.role, tuple(map(self._settled, message.parts)))

    def _settled(self, part: Part) -> Part:
        if not isinstance(part, Called):
            return part
        wanted = part.id or "call"
        id, number = part.id, 1
        while not id or id in self.used:
            id, number = f"{wanted}_{number}", number + 1
        self.used.add(id)
        settled = replace(part, id=id)
        self.open.append((part.id, settled))
        return settled

    def _answered(self, results: Iterable[Result]) -> Iterator[Result]:
        for result in results:
            found = next((each for each in self.open if _fits(*each, result)), None)
            if found is not None:
                self.open.remove(found)
                yield replace(result, id=found[1].id, name=found[1].name)
            elif not result.id or result.id not in self.used:  # else it was sent twice
                raise Unconvertible("the result of a tool call that is not in the history")


def _fits(id: str, call: Called, result: Result) -> bool:
    if result.id and id:
        return id == result.id
    return not result.name or call.name == result.name
