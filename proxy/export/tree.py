"""The tree of one conversation: which of its calls are the leaves that a data set is made of. Pure.

A call holds the conversation up to it. It is a candidate where its turn ended as wanted, and so did
every earlier turn that its context holds. A leaf is a candidate that no other one contains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from uuid import UUID

from proxy.turn import Kind

COMPLETED = "completed"
ANY = "any"


@dataclass(frozen=True, slots=True)
class Node:
    """A call, without its content."""

    id: UUID
    created_at: datetime
    turn: UUID | None = None
    parent: UUID | None = None
    kind: str | None = None  # how it relates to its parent, `proxy.turn.Kind`; None: not linked
    is_anew: bool = False  # it answers the same history as its parent
    is_whole: bool = True  # answered, and kept with all of its content
    is_wanted: bool = True  # by the filters that look at one call
    is_partial: bool = False  # its row holds only what is new
    response: str | None = None  # the provider's id of the answer
    previous: str | None = None  # … of the answer that it goes on from
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How a turn ended, and the call that this rests on."""

    stop_reason: str
    rounds: int = 1
    last: UUID | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which turns a data set is made of. `loop_detected` stands for all of its kinds."""

    stop_reasons: tuple[str, ...] = (COMPLETED,)
    rounds_min: int = 1

    @property
    def is_any(self) -> bool:
        return ANY in self.stop_reasons

    def takes(self, end: TurnEnd | None) -> bool:
        if self.is_any:
            return True
        return end is not None and any(
            end.stop_reason == reason or end.stop_reason.startswith(f"{reason}:")
            for reason in self.stop_reasons
        )


@dataclass(frozen=True, slots=True)
class Leaf:
    """An example: the call that holds it, and the earlier calls it contains, in order."""

    node: Node
    contained: tuple[UUID, ...] = ()
    stop_reason: str | None = None

    @property
    def rows(self) -> tuple[UUID, ...]:
        return (*self.contained, self.node.id)


@dataclass(frozen=True, slots=True)
class Twins:
    """Two answers to one history."""

    chosen: Leaf
    rejected: Leaf


@dataclass(frozen=True, slots=True)
class _Line:
    """What leads to a call: the calls it contains, latest first, and the turns of its context."""

    contained: tuple[UUID, ...]
    turns: frozenset[UUID]
    is_whole: bool  # False: an earlier call is not there any more


@dataclass(slots=True)
class Tree:
    """All calls and turns of one conversation."""

    nodes: dict[UUID, Node] = field(default_factory=dict)  # in order of time
    ends: dict[UUID, TurnEnd] = field(default_factory=dict)  # by turn

    def leaves(self, wanted: Wanted) -> list[Leaf]:
        """The leaves, in order of time."""
        last = self._last_calls(wanted)
        candidates = [leaf for node in last if (leaf := self._leaf(node, wanted))]
        contained = {id for leaf in candidates for id in leaf.contained}
        return [leaf for leaf in candidates if leaf.node.id not in contained]

    def twins(self, wanted: Wanted) -> list[Twins]:
        """Pairs of answers to one history: what was gone on with, else the later, is preferred."""
        groups: dict[UUID, list[Node]] = {}
        for node in self.nodes.values():
            if node.is_anew and node.parent in self.nodes:
                groups.setdefault(node.parent, [self.nodes[node.parent]]).append(node)
        gone_on = {node.parent for node in self.nodes.values() if node.kind == Kind.CONTINUES}
        found: list[Twins] = []
        for group in groups.values():
            leaves = [leaf for node in group if (leaf := self._leaf(node, wanted))]
            leaves.sort(key=lambda leaf: (leaf.node.id in gone_on, leaf.node.created_at))
            found += (Twins(leaves[-1], other) for other in leaves[:-1])
        return found

    def context(self, node: Node) -> list[UUID]:
        """The calls whose rows are needed to assemble this one's context, in order, itself last.

        Raises LookupError where one of them is not there.
        """
        found = [node.id]
        by_response = {each.response: each for each in self.nodes.values() if each.response}
        while node.is_partial:
            before = by_response.get(node.previous) if node.previous else None
            if before is None and node.previous is None and node.kind == Kind.CONTINUES:
                before = self.nodes.get(node.parent) if node.parent else None
            if before is None or before.id in found:
                raise LookupError("the beginning of the conversation is not there")
            found.append(before.id)
            node = before
        return found[::-1]

    def _last_calls(self, wanted: Wanted) -> Iterator[Node]:
        """The calls that may be leaves."""
        if wanted.is_any:
            yield from (n for n in self.nodes.values() if n.kind != Kind.SIDE)
            return
        last: dict[UUID, Node] = {}
        for node in self.nodes.values():
            if node.turn is not None and node.is_whole:
                last[node.turn] = node
        for turn, node in last.items():
            end = self.ends.get(turn)
            named = self.nodes.get(end.last) if end and end.last else None
            yield named if named is not None and named.is_whole else node

    def _leaf(self, node: Node, wanted: Wanted) -> Leaf | None:
        end = self.ends.get(node.turn) if node.turn else None
        if not (node.is_whole and node.is_wanted and wanted.takes(end)):
            return None
        if (end.rounds if end else 1) < wanted.rounds_min:
            return None
        line = self._line(node)
        turns = (self.ends.get(turn) for turn in line.turns)
        if not wanted.is_any and not (line.is_whole and all(map(wanted.takes, turns))):
            return None
        return Leaf(node, line.contained[::-1], end.stop_reason if end else None)

    def _line(self, node: Node) -> _Line:
        contained: list[UUID] = []
        turns: set[UUID] = {node.turn} if node.turn else set()
        seen = {node.id}
        holds = True  # whether what lies further back still stands in the context
        while node.parent is not None and node.kind in _FOLLOWING:
            before = self.nodes.get(node.parent)
            if before is None or before.id in seen:
                return _Line(tuple(contained), frozenset(turns), is_whole=False)
            seen.add(before.id)
            holds = holds and node.kind != Kind.COMPACTED
            if holds and not node.is_anew and node.kind != Kind.RETRIES:
                contained.append(before.id)
            if not node.is_anew and before.turn:
                turns.add(before.turn)
            node = before
        return _Line(tuple(contained), frozenset(turns), is_whole=True)


_FOLLOWING = frozenset({Kind.CONTINUES, Kind.RETRIES, Kind.FORKS, Kind.COMPACTED})


def share(project: str | None, session: str | None, id: UUID) -> float:
    """Where a conversation lies between 0 and 1, the same in every run: for stable splits."""
    key = f"{project or ''}\0{session if session is not None else id}"
    digest = blake2b(key.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
