"""Threads: which call continues which, and with that its session, turn and round.

Pure, and judged anew from the facts of whole conversations, in order of time, whenever a call
arrives: so the result does not depend on when or in what order rows were committed. Where evidence
is missing, a new thread is the answer. In order of strength: what the agent says (session, turn,
agent, predecessor); ids of tool calls; the longest history in common.

A labelled call is compared with calls of its own session only, an unlabelled one with those that
share a key (`given`, `wanted`): the store finds them by these keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from proxy.turn import End, Facts, Kind, Placement, Turn, turn_id

RETRY_WINDOW = timedelta(minutes=10)  # after a failure, where no label names the session
FRESH = timedelta(seconds=60)
ROUTED_WINDOW = timedelta(minutes=10)  # from a side call to the call it was made for
WANTED_ATOMS, WANTED_TOOLS = 6, 4
ANEW = "same history answered anew"


@dataclass(frozen=True, slots=True)
class Judged:
    """Where each call belongs, and which turns were followed by another message of a person."""

    placements: Mapping[UUID, Placement]
    succeeded: Mapping[UUID, Facts]  # turn → the call that brought that message


@dataclass(frozen=True, slots=True)
class _Match:
    """An earlier call whose history, answer included, begins this one's."""

    call: Facts
    after: str  # kinds of the atoms that this call adds
    evidence: str


def place(calls: Iterable[Facts], pinned: Mapping[UUID, Placement] | None = None) -> Judged:
    """Place all calls of some conversations; those that are pinned have their places already."""
    ordered = sorted(calls, key=lambda call: call.order)
    book = _Book(ordered, pinned or {})
    for call in ordered:
        book.enter(call)
    return Judged(book.placements, book.succeeded)


def given(call: Facts) -> frozenset[str]:
    """The keys by which a later call may find this one."""
    keys = {tool.id for tool in call.open_tools} | {call.response, call.continuation}
    if call.end in (End.CUT, End.FAILED, End.EMPTY) or call.is_textual:
        keys.add(call.request)
    if call.side:
        keys.update(call.opening)
    return frozenset(key for key in keys if key) | frozenset(call.handed)


def wanted(call: Facts) -> frozenset[str]:
    """The keys of earlier calls that this one may continue; none where a label says it."""
    if call.session is not None:
        return frozenset()
    tools = {id for _, id in call.seen[-WANTED_TOOLS:]}
    keys = {*call.chain[-WANTED_ATOMS:], *tools, *call.opening, *call.beginnings, call.previous}
    return frozenset(key for key in keys if key)


def turns_of(calls: Iterable[Facts], judged: Judged) -> list[Turn]:
    """The turns that the calls make up, in order of time."""
    members: dict[UUID, list[Facts]] = defaultdict(list)
    aside = _superseded(judged.placements)
    for call in sorted(calls, key=lambda call: call.order):
        turn = judged.placements[call.id].turn
        if turn is not None and call.id not in aside:
            members[turn].append(call)
    active = {turn: max(call.ended_at for call in found) for turn, found in members.items()}
    for turn, found in reversed(members.items()):  # sub-agents come after their parents
        first = judged.placements[found[0].id]
        above = judged.placements.get(first.parent) if first.parent else None
        if first.kind is Kind.SUB_AGENT and above and above.turn in active:
            active[above.turn] = max(active[above.turn], active[turn])
    return [
        Turn(
            id=turn,
            session=judged.placements[found[0].id].session,
            calls=tuple(found),
            rounds={call.id: judged.placements[call.id].round or 1 for call in found},
            successor=judged.succeeded.get(turn),
            active_until=active[turn],
        )
        for turn, found in members.items()
    ]


def _superseded(placements: Mapping[UUID, Placement]) -> set[UUID]:
    """Of two answers to one request within a turn, the one that the agent did not go on with."""
    gone_on = {where.parent for where in placements.values() if where.kind is Kind.CONTINUES}
    found: set[UUID] = set()
    for id, where in placements.items():
        twin = placements.get(where.parent) if where.parent else None
        is_anew = where.kind is Kind.FORKS and where.evidence == ANEW
        if twin is None or not is_anew or twin.turn != where.turn:
            continue
        if id not in gone_on:
            found.add(id)
        elif where.parent and where.parent not in gone_on:
            found.add(where.parent)
    return found


@dataclass(slots=True)
class _Book:
    """What is known of the calls entered so far."""

    calls: Sequence[Facts]
    pinned: Mapping[UUID, Placement] = field(default_factory=dict)
    placements: dict[UUID, Placement] = field(default_factory=dict)
    succeeded: dict[UUID, Facts] = field(default_factory=dict)
    _by_id: dict[UUID, Facts] = field(default_factory=dict)
    _by_key: dict[str, list[Facts]] = field(default_factory=lambda: defaultdict(list))
    _by_request: dict[str, list[Facts]] = field(default_factory=lambda: defaultdict(list))
    _handed: dict[str, list[Facts]] = field(default_factory=lambda: defaultdict(list))
    _routed: dict[str, list[Facts]] = field(default_factory=lambda: defaultdict(list))
    _children: dict[UUID, list[Facts]] = field(default_factory=lambda: defaultdict(list))
    _last: dict[tuple[str | None, str, str | None], Facts] = field(default_factory=dict)
    _rounds: dict[UUID, int] = field(default_factory=dict)
    _spawned: dict[UUID, set[str]] = field(default_factory=lambda: defaultdict(set))
    _sub_threads: set[UUID] = field(default_factory=set)
    _continued: frozenset[str] = frozenset()
    _with_tools: frozenset[tuple[str | None, str | None]] = frozenset()

    def __post_init__(self) -> None:
        self._by_id = {call.id: call for call in self.calls}
        self._continued = frozenset(digest for call in self.calls for digest in call.chain)
        self._with_tools = frozenset(
            (call.project, call.session) for call in self.calls if call.has_tools
        )

    def enter(self, call: Facts) -> None:
        """Place one call; all earlier ones have been."""
        placement = self.pinned.get(call.id) or self._placement(call)
        if placement.kind is Kind.SIDE:
            self.placements[call.id] = placement
            for task in call.opening:
                self._routed[task].append(call)
            return
        self.placements[call.id] = placement
        if placement.turn is not None and placement.round is not None:
            known = self._rounds.get(placement.turn, 0)
            self._rounds[placement.turn] = max(known, placement.round)
        self._note_successor(call, placement)
        self._remember(call, placement)

    def _placement(self, call: Facts) -> Placement:
        match = self._match(call)
        if self._is_side(call, match):
            return self._aside(call, match)
        return self._follow(call, match) if match else self._open(call)

    # --- what a call continues ---

    def _match(self, call: Facts) -> _Match | None:
        """The call with the longest history in common whose answer this one holds."""
        if call.previous:
            named = self._by_key.get(call.previous, ())
            if found := self._best(call, named, is_typed=True):
                return _Match(found, call.kinds, "previous response")
        tools: dict[int, set[str]] = defaultdict(set)
        for after, id in call.seen:
            tools[after].add(id)
        length = len(call.kinds)
        for after in range(max(length, *tools, 0) + 1 if tools else length):
            ids = frozenset(tools.get(after, ()))
            candidates = [p for id in ids for p in self._by_key.get(id, ())]
            same: list[Facts] = []
            if after < length:
                digest = call.chain[length - 1 - after]
                same = [*self._by_key.get(digest, ()), *self._unanswered(call, digest, after)]
            added = call.kinds[max(0, length - after) :]
            if found := self._best(call, candidates, ids, same, is_typed="u" in added):
                has_id = any(tool.id in ids for tool in found.calls)
                return _Match(found, added, "tool call id" if has_id else "history")
            if after == 0 and (found := self._added_to(call)):
                return _Match(found, "u", "history")
        return None

    def _added_to(self, call: Facts) -> Facts | None:
        """A call without an answer to whose message this one adds a text."""
        for digest in call.beginnings:
            found = self._best(call, self._unanswered(call, digest, 1), is_typed=True)
            if found is not None:
                return found
        return None

    def _unanswered(self, call: Facts, digest: str, after: int) -> Iterator[Facts]:
        """Calls with this history that got no answer, or an empty one."""
        for earlier in self._by_request.get(digest, ()):
            is_lost = earlier.is_textual and after > 0 and call.kinds[-after:][0] == "r"
            if earlier.end not in (End.CUT, End.FAILED, End.EMPTY) and not is_lost:
                continue  # lost: its tool failed, and the client keeps nothing but the error
            if call.session is None and (earlier.session or call.setting != earlier.setting):
                continue  # another program with the same words; who labels labels every call
            is_known = call.session is not None or "m" in call.kinds
            waited = call.created_at - earlier.ended_at
            has_ended = waited >= timedelta(0) or after > 0  # a stream may be closed late
            is_soon = has_ended and waited <= RETRY_WINDOW
            is_again = after > 0 or call.is_nudged or earlier.end is not End.EMPTY
            is_free = not self._is_continued(earlier) or self._is_asked_again(call, earlier)
            if is_known or (is_soon and is_again and is_free):
                yield earlier

    def _best(
        self,
        call: Facts,
        candidates: Iterable[Facts],
        ids: frozenset[str] = frozenset(),
        same: Sequence[Facts] = (),
        *,
        is_typed: bool,
    ) -> Facts | None:
        """The likeliest of several, those in `same` having the whole history in common. Programs
        that are alike take turns; a person goes on with what came last."""
        fitting = [other for other in (*candidates, *same) if self._may_follow(call, other)]
        is_same = {other.id for other in same}

        def rank(other: Facts) -> tuple[bool, bool, bool, bool, bool, bool, float, object]:
            waited = call.created_at - other.ended_at
            is_fresh = timedelta(0) <= waited <= FRESH and not is_typed
            return (
                any(tool.id in ids for tool in other.calls),
                other.id in is_same,  # some servers number their ids anew in each conversation
                (other.session is None) == (call.session is None),
                other.setting == call.setting,
                not self._is_continued(other),
                is_fresh,
                waited.total_seconds() if is_fresh else -abs(waited.total_seconds()),
                other.order,
            )

        return max(fitting, key=rank, default=None)

    def _may_follow(self, call: Facts, other: Facts) -> bool:
        if call.project != other.project:
            return False
        if call.session is None:
            return True
        return self.placements[other.id].session == call.session and call.agent == other.agent

    def _is_continued(self, call: Facts) -> bool:
        return any(child.end.is_answer for child in self._children.get(call.id, ()))

    def _is_asked_again(self, call: Facts, earlier: Facts) -> bool:
        """Whether this very request has followed the earlier call before."""
        return any(child.request == call.request for child in self._children.get(earlier.id, ()))

    # --- what follows an earlier call ---

    def _follow(self, call: Facts, match: _Match) -> Placement:
        before = match.call
        at = self.placements[before.id]
        is_typed = "u" in match.after
        if not before.end.is_answer:
            if not is_typed and "r" not in match.after:
                return self._again(call, before, "follows a failure")
        elif self._is_continued(before):
            return self._fork(call, match)
        elif (children := self._children.get(before.id)) and not is_typed:
            return self._again(call, children[-1], "another try after the same answer")
        return self._placed(call, Kind.CONTINUES, at.thread, before, is_typed, match.evidence)

    def _again(self, call: Facts, before: Facts, evidence: str) -> Placement:
        at = self.placements[before.id]
        turn = self._turn_of(call, at.session) or at.turn
        return Placement(at.session, at.thread, Kind.RETRIES, turn, at.round, before.id, evidence)

    def _fork(self, call: Facts, match: _Match) -> Placement:
        """A history that was continued already: answered anew, or gone on with otherwise."""
        twins = [c for c in self._children[match.call.id] if c.request == call.request]
        if twins:
            return self._answered_anew(call, twins[0])
        is_typed = "u" in match.after
        return self._placed(call, Kind.FORKS, call.id, match.call, is_typed, match.evidence)

    def _answered_anew(self, call: Facts, twin: Facts) -> Placement:
        at = self.placements[twin.id]
        labelled = self._turn_of(call, at.session)
        if "u" in call.kinds.rpartition("m")[2]:
            turn, number = labelled or call.id, 1
        else:
            turn, number = labelled or at.turn or call.id, at.round or 1
        return Placement(at.session, call.id, Kind.FORKS, turn, number, twin.id, ANEW)

    def _placed(
        self,
        call: Facts,
        kind: Kind,
        thread: UUID,
        before: Facts,
        is_typed: bool,
        evidence: str,
    ) -> Placement:
        """A call after another: in the same turn, or beginning the next."""
        at = self.placements[before.id]
        labelled = self._turn_of(call, at.session)
        if labelled is not None and labelled != at.turn:
            turn, number = labelled, self._rounds.get(labelled, 0) + 1
        elif labelled is None and (is_typed or at.turn is None):
            turn, number = call.id, 1
        else:
            turn, number = at.turn or call.id, (at.round or 0) + 1
        return Placement(at.session, thread, kind, turn, number, before.id, evidence)

    # --- what opens a thread ---

    def _open(self, call: Facts) -> Placement:
        if call.session is None:
            return self._open_unlabelled(call)
        session = call.session
        last = self._last.get((call.project, session, call.agent))
        if last is None and call.agent is not None:
            return self._sub_agent(call, self._spawner(call), "agent id")
        spawner = self._spawner(call)
        if spawner is not None:
            return self._sub_agent(call, spawner, "task in a tool call")
        if last is not None:
            if "s" in call.kinds:
                is_typed = "u" in call.kinds.rpartition("s")[2]
                thread = self.placements[last.id].thread
                return self._placed(call, Kind.COMPACTED, thread, last, is_typed, "summary")
            if call.heard is not None and call.heard == last.said:
                is_typed = "u" in call.kinds.rpartition("m")[2]
                thread = self.placements[last.id].thread
                return self._placed(call, Kind.CONTINUES, thread, last, is_typed, "last answer")
        twin = self._twin(call)
        return self._answered_anew(call, twin) if twin else self._opened(call, session)

    def _twin(self, call: Facts) -> Facts | None:
        """An earlier answer to the same whole history, in the session that a label names."""
        found = self._by_request.get(call.request or "", ())
        return next((c for c in found if self._may_follow(call, c) and c.end.is_answer), None)

    def _open_unlabelled(self, call: Facts) -> Placement:
        spawner = self._spawner(call)
        if spawner is not None:
            return self._sub_agent(call, spawner, "task in a tool call")
        routed = self._router(call)
        if routed is None:
            return self._opened(call, str(call.id))
        at = self.placements[routed.id]
        before = self._by_id.get(at.parent) if at.parent and "s" in call.kinds else None
        if before is None:
            return self._opened(call, at.session)
        is_typed = "u" in call.kinds.rpartition("s")[2]
        thread = self.placements[before.id].thread
        return self._placed(call, Kind.COMPACTED, thread, before, is_typed, "summary")

    def _opened(self, call: Facts, session: str) -> Placement:
        labelled = self._turn_of(call, session)
        number = self._rounds.get(labelled, 0) + 1 if labelled else 1
        return Placement(session, call.id, Kind.OPENS, labelled or call.id, number)

    def _spawner(self, call: Facts) -> Facts | None:
        """The call with an open tool call that was handed this thread's opening text."""
        found = [
            other
            for task in call.opening
            for other in self._handed.get(task, ())
            if call.project == other.project
            and call.session in (None, self.placements[other.id].session)
            and not self._is_continued(other)
            and other.ended_at <= call.created_at + timedelta(seconds=1)
        ]

        def rank(other: Facts) -> tuple[bool, bool, bool, float, object]:
            waited = (call.created_at - other.ended_at).total_seconds()
            is_fresh = waited <= FRESH.total_seconds()
            return (
                other.program == call.program,
                not self._spawned[other.id].intersection(call.opening),
                is_fresh,
                waited if is_fresh else -waited,  # programs that are alike take turns
                other.order,
            )

        if not found and call.agent is not None and call.session is not None:
            main = self._last.get((call.project, call.session, None))
            return main if main is not None and main.open_tools else None
        return max(found, key=rank, default=None)

    def _sub_agent(self, call: Facts, spawner: Facts | None, evidence: str) -> Placement:
        session = self.placements[spawner.id].session if spawner else call.session or str(call.id)
        labelled = None if call.agent else self._turn_of(call, session)
        if labelled is not None and spawner and self.placements[spawner.id].turn == labelled:
            number = self._rounds.get(labelled, 0) + 1  # the agent counts it as its own
        else:
            number = 1
        return Placement(
            session,
            call.id,
            Kind.SUB_AGENT,
            labelled or call.id,
            number,
            spawner.id if spawner else None,
            evidence,
        )

    def _router(self, call: Facts) -> Facts | None:
        """A side call that looked at the same words a moment before, without a session."""
        found = [
            side
            for task in call.opening
            for side in self._routed.get(task, ())
            if side.project == call.project
            and side.session is None
            and call.created_at - side.ended_at <= ROUTED_WINDOW
            and (call.side or not self._children.get(side.id))
        ]
        return max(found, key=lambda side: side.order, default=None)

    def _turn_of(self, call: Facts, session: str) -> UUID | None:
        return turn_id(call.project, session, call.turn) if call.turn else None

    # --- side calls ---

    def _is_side(self, call: Facts, match: _Match | None) -> bool:
        if call.side:
            return True
        if call.session is None or call.agent is not None or match is not None:
            return False
        return (
            not call.has_tools
            and (call.project, call.session) in self._with_tools
            and call.turn is None
            and "m" not in call.kinds
            and "s" not in call.kinds
            and call.continuation not in self._continued
            and self._spawner(call) is None
        )

    def _aside(self, call: Facts, match: _Match | None) -> Placement:
        session = call.session
        before = match.call if match else None
        if session is None:
            before = before or self._router(call)
            session = self.placements[before.id].session if before else str(call.id)
        elif before is None:
            before = self._last.get((call.project, session, call.agent))
        parent = before.id if before else None
        return Placement(session, call.id, Kind.SIDE, None, None, parent, call.side or "no tools")

    # --- what is remembered for later calls ---

    def _note_successor(self, call: Facts, placement: Placement) -> None:
        """A turn whose thread went on with another turn is over."""
        before = self.placements.get(placement.parent) if placement.parent else None
        if before is None or before.turn is None or before.turn == placement.turn:
            return
        if placement.kind in (Kind.CONTINUES, Kind.COMPACTED, Kind.FORKS):
            self.succeeded.setdefault(before.turn, call)

    def _remember(self, call: Facts, placement: Placement) -> None:
        for key in {tool.id for tool in call.open_tools} | {call.response, call.continuation}:
            if key:
                self._by_key[key].append(call)
        if call.request:
            self._by_request[call.request].append(call)
        for task in call.handed:
            self._handed[task].append(call)
        if placement.parent and placement.kind is not Kind.SUB_AGENT:
            self._children[placement.parent].append(call)
        if routed := self._router(call) if placement.kind is Kind.OPENS else None:
            self._children[routed.id].append(call)
        if placement.kind is Kind.SUB_AGENT:
            self._sub_threads.add(placement.thread)
            if placement.parent:
                self._spawned[placement.parent].update(call.opening)
        if call.agent is not None or placement.thread not in self._sub_threads:
            self._last[call.project, placement.session, call.agent] = call
