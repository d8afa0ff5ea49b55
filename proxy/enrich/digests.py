"""Digests: of the parts of a conversation, and of its beginnings.

Consecutive parts of one side are one atom; a model's atom is the tools it called, by name and
arguments, or else its text. Results go by the id that the client sends, or else by their text.

Digests are BLAKE2b of 8 bytes, keyed with a secret of the database, so that they tell nothing to
whoever has only them. They are taken over the stored form of a row and kept in `agent_links`;
`canonical.VERSION` is raised with every change of the form.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

from proxy.enrich.canonical import Called, Part, Result, Said, Typed, plain, written_value
from proxy.injected import Injection


class Digests:
    """Keyed digests, as short text."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret[:64]

    def of(self, *parts: str) -> str:
        encoded = [part.encode("utf-8", "replace") for part in parts]
        data = b"".join([b"%d:%b" % (len(part), part) for part in encoded])
        digest = blake2b(data, digest_size=8, key=self._secret).digest()
        return urlsafe_b64encode(digest)[:11].decode()

    def of_call(self, called: Called) -> str:
        return self.of("call", called.name, plain(written_value(called.arguments)))

    def of_answer(self, text: str, calls: Iterable[Called]) -> str | None:
        """What the model did: the tools it called, else its text; None for nothing at all."""
        called = [self.of_call(call) for call in calls]
        words = plain(text).removesuffix("</code>").rstrip()  # a stop sequence of smolagents
        if called:
            return self.of("calls", *called)
        return self.of("text", words) if words else None


@dataclass(slots=True)
class Chain:
    """A history as atoms, each with the digest of everything up to it."""

    digests: Digests
    kinds: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    last_answer: str | None = None
    _said: list[str] = field(default_factory=list)
    _called: list[Called] = field(default_factory=list)
    _results: dict[str, None] = field(default_factory=dict)  # in order, each once

    def add(self, part: Part) -> None:
        if isinstance(part, Said | Called):
            self._end_results()
            if isinstance(part, Said):
                self._said.append(part.text)
            else:
                self._called.append(part)
            return
        self._end_answer()
        if isinstance(part, Result):
            if part.is_text:
                self._end_results()
            key = part.id or self.digests.of("result", part.name or "", plain(part.output))
            self._results.setdefault(key)
            return
        is_beside_results = bool(self._results)
        self._end_results()
        self._add_typed(part, is_beside_results=is_beside_results)

    def copy(self) -> Chain:
        """The same chain, to be continued otherwise."""
        return Chain(
            self.digests,
            list(self.kinds),
            list(self.values),
            self.last_answer,
            list(self._said),
            list(self._called),
            dict(self._results),
        )

    @property
    def weight(self) -> int:
        """About how many bytes it holds."""
        open_parts = sum(map(len, self._said)) + 500 * len(self._called)
        return 120 * len(self.kinds) + open_parts + 100 * len(self._results) + 500

    def finish(self) -> None:
        """Close the last atom."""
        self._end_results()
        self._end_answer()

    def _add_typed(self, part: Typed, *, is_beside_results: bool) -> None:
        if Injection.SUMMARY in part.injections:
            self._append("s", "summary")
        if part.texts or part.other:
            self._append("u", "typed", *(plain(text) for text in part.texts), *part.other)
        elif Injection.SUMMARY not in part.injections and not is_beside_results:
            self._append("n", "note")

    def _end_results(self) -> None:
        if self._results:
            self._append("r", "results", *sorted(self._results))
            self._results.clear()

    def _end_answer(self) -> None:
        if self._said or self._called:
            answer = self.digests.of_answer("".join(self._said), self._called)
            if answer is not None:
                self._append("m", answer)
                self.last_answer = answer
            self._said.clear()
            self._called.clear()

    def _append(self, kind: str, *parts: str) -> None:
        before = self.values[-1] if self.values else ""
        self.kinds.append(kind)
        self.values.append(self.digests.of(before, kind, *parts))
