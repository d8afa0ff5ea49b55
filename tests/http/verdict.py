"""Verdict: how a front's treatment of a case differs from no front at all. Pure.

A difference is a short phrase, the same for every case that shows it, so that each can be justified
once. `Host` and `Connection` are every front's to set; names of fields compare without case, their
order is not looked at here.
"""

from __future__ import annotations

from collections import Counter

from tests.http.observe import LAST_TARGET, Got, Observation, Seen

_EVERY_FRONTS = frozenset({b"host", b"connection"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})


def differences(direct: Observation, front: Observation) -> tuple[str, ...]:
    """What is different, in order, each thing once; nothing: the front is not to be noticed."""
    if not front.seen:
        return _without_provider(direct, front)
    found = _of_requests(_own(direct), _own(front))
    if _is_readable(direct):
        found += _of_answers(_given(direct), _given(front))
    if direct.has_last != front.has_last:
        found.append("goes on behind it" if front.has_last else "closes behind it")
    if not front.is_closed:
        found.append("stays open")
    return tuple(dict.fromkeys(found))


def _own(observation: Observation) -> list[Seen]:
    """The requests of the case itself."""
    return [seen for seen in observation.seen if seen.target != LAST_TARGET]


def _given(observation: Observation) -> list[Got]:
    """The answers to them."""
    got = observation.got
    return got[:-1] if observation.has_last and got and got[-1].body == b"last" else got


def _is_readable(observation: Observation) -> bool:
    return not any(seen.fault for seen in observation.seen)


def _without_provider(direct: Observation, front: Observation) -> tuple[str, ...]:
    said = str(front.got[0].status) if front.got else "closed"
    return (f"refused: {said}",) if _is_readable(direct) else ()


def _of_requests(direct: list[Seen], front: list[Seen]) -> list[str]:
    found = []
    if any(seen.fault and not seen.method for seen in front):
        found.append("forwards what h11 refuses")
    if any(not seen.is_whole and seen.method for seen in front) and all(s.is_whole for s in direct):
        found.append("forwards a part")
    read, passed = ([s for s in side if s.is_whole] for side in (direct, front))
    if len(passed) != len(read):
        found.append(f"{_number(len(passed), 'request')} instead of {len(read)}")
    for one, other in zip(read, passed, strict=False):
        found += [name for name in ("method", "target", "body")
                  if getattr(one, name) != getattr(other, name)]  # fmt: skip
        found += _of_fields(one.fields, other.fields, _EVERY_FRONTS)
        found += ["trailers dropped"] if one.trailers and not other.trailers else []
    return found


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _of_answers(direct: list[Got], front: list[Got]) -> list[str]:
    found = []
    given, passed = list(direct), list(front)
    for status in (100, 102, 103):
        was, is_ = (sum(g.status == status for g in side) for side in (given, passed))
        found += [f"{status} dropped"] * (was > is_) + [f"{status} added"] * (is_ > was)
    given, passed = ([g for g in s if g.status >= 200 or g.status < 100 or g.status == 101]
                     for s in (given, passed))  # fmt: skip
    if len(given) != len(passed):
        found.append(f"{_number(len(passed), 'answer')} instead of {len(given)}")
    for one, other in zip(given, passed, strict=False):
        if other.status != one.status:
            found.append(f"answers {other.status}")
            continue
        found += ["status line"] if one.status_line != other.status_line else []
        found += [f"answer {what}" for what in _of_fields(one.fields, other.fields, _FRAMING)]
        found += ["answer body"] if one.body != other.body else []
        if other.is_whole and not one.is_whole:
            found.append("a cut answer looks whole")
        elif one.is_whole and not other.is_whole:
            found.append("a whole answer is cut")
    return found


def _of_fields(
    one: list[tuple[bytes, bytes]], other: list[tuple[bytes, bytes]], ignored: frozenset[bytes]
) -> list[str]:
    was, is_ = (
        Counter((name.lower(), value) for name, value in side if name.lower() not in ignored)
        for side in (one, other)
    )
    gone = {name for name, _ in was - is_}
    new = {name for name, _ in is_ - was}
    signs = [("≠", gone & new), ("−", gone - new), ("+", new - gone)]
    return [f"{sign}{_name(name)}" for sign, names in signs for name in sorted(names)]


def _name(name: bytes) -> str:
    return name.decode("latin-1")
