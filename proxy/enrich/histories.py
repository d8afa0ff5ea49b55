"""Histories: what the messages of a call say, read on from where an earlier reading ended."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

from proxy.enrich.canonical import (
    Called,
    Part,
    Result,
    Said,
    Typed,
    parts_of,
    plain,
)
from proxy.enrich.digests import Chain, Digests
from proxy.record import TelemetryRecord

HISTORIES_MAX = 5000
SETTINGS_MAX = 128
HISTORY_BYTES_MAX = 1024 * 1024
HISTORIES_BYTES_MAX = 32 * 1024 * 1024

_BILLING = re.compile(r"x-anthropic-billing-header:[^\n]*")  # may change at each call


@dataclass(slots=True)
class History:
    """A history as far as it was read: its atoms, the last one still open, and what is asked of it.

    A result whose call is no longer in the history counts as called before it.
    """

    chain: Chain
    seen: dict[str, tuple[int, str]] = field(default_factory=dict)  # tool's id → atom, digest
    brought: dict[str | int, Result] = field(default_factory=dict)  # since the model spoke last
    first: Typed | None = None
    last: Part | None = None
    summary: str = ""  # the first that stands in place of removed messages
    parts: int = 0

    def add(self, part: Part) -> None:
        chain = self.chain
        chain.add(part)
        if isinstance(part, Called) and part.id:
            self._see(part.id, len(chain.kinds))
        elif isinstance(part, Result) and part.id and part.id not in self.seen:
            self._see(part.id, len(chain.kinds) - 1)
        if isinstance(part, Said | Called):
            self.brought.clear()
        elif isinstance(part, Result):
            if part.is_text:
                self.brought.clear()  # of earlier rounds, whose calls the client does not repeat
            self.brought.setdefault(part.id or self.parts, part)
        else:
            self.summary = self.summary or part.summary
            if self.first is None and part.texts:
                self.first = part
        self.last = part
        self.parts += 1

    def copy(self) -> History:
        return History(
            self.chain.copy(),
            dict(self.seen),
            dict(self.brought),
            self.first,
            self.last,
            self.summary,
            self.parts,
        )

    @property
    def weight(self) -> int:
        """About how many bytes it holds."""
        results = sum(len(result.output) for result in self.brought.values())
        typed = (part for part in (self.first, self.last) if isinstance(part, Typed))
        return (
            self.chain.weight
            + 150 * len(self.seen)
            + results
            + len(self.summary)
            + sum(len(text) for part in typed for text in part.texts)
        )

    def _see(self, id: str, at: int) -> None:
        known = self.seen.get(id)
        self.seen[id] = (at, known[1] if known else self.chain.digests.of("tool", id))


class Histories:
    """What was read of earlier calls: agents send the same history in each round, and a bit more.

    Bounded in entries and bytes. Not safe for use by several threads at once.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[History, int]] = OrderedDict()
        self._bytes = 0
        self.setting = lru_cache(SETTINGS_MAX)(setting_of)

    def latest(self, names: Sequence[bytes]) -> tuple[History | None, int]:
        """What is known of the longest beginning of a history, and its length."""
        for length in range(len(names), 0, -1):
            if (found := self._known.get(names[length - 1])) is not None:
                self._known.move_to_end(names[length - 1])
                return found[0].copy(), length
        return None, 0

    def keep(self, name: bytes, history: History) -> None:
        if (weight := history.weight) > HISTORY_BYTES_MAX or name in self._known:
            return
        self._known[name] = history, weight
        self._bytes += weight
        while len(self._known) > HISTORIES_MAX or self._bytes > HISTORIES_BYTES_MAX:
            self._bytes -= self._known.popitem(last=False)[1][1]


def read_history(
    record: TelemetryRecord,
    digests: Digests,
    histories: Histories | None,
    names: Sequence[bytes | None],
) -> History:
    """The whole history, on from where an earlier call's reading ended."""
    messages = record.chat_history
    beginnings = _beginnings(names) if histories is not None else []
    if histories is None or len(beginnings) != len(messages):
        history = History(Chain(digests))
        for part in parts_of(messages):
            history.add(part)
        return history
    known, length = histories.latest(beginnings)
    history = known or History(Chain(digests))
    for part in parts_of(messages[length:], messages[length - 1] if length else None):
        history.add(part)
    if beginnings and length < len(messages):
        histories.keep(beginnings[-1], history)
    return history


def _beginnings(names: Sequence[bytes | None]) -> list[bytes]:
    """A name for each beginning of a history, up to the first message that has none."""
    found: list[bytes] = []
    before = b""
    for name in names:
        if name is None:
            break
        before = blake2b(before + name, digest_size=16).digest()
        found.append(before)
    return found


def setting_of(digests: Digests, client: str, system_prompt: str, names: tuple[str, ...]) -> str:
    return digests.of("setting", client, plain(_BILLING.sub("", system_prompt)), *names)
