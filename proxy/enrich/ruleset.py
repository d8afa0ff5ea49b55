"""RuleSet: rules compiled to RE2 and applied to a text, behind one scan for all their keywords.

Patterns see UTF-8 bytes, so that a lone surrogate harms nothing and offsets need no translation.
A mark that stands in the text already is never taken apart, and rules are applied until nothing
changes: what is redacted once stays as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import re2

from proxy.enrich.redact_rules import Rule, Span
from proxy.errors import ConfigError

PASSES_MAX = 8  # two are the rule: one that changes something, one that does not
MARK_CHARS_MAX = len("[REDACTED:]") + 64

_MARK_START = b"[REDACTED:"
_MARK = re.compile(rb"\[REDACTED:[A-Za-z0-9_.\-]{1,64}\]")
_RULE_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


def own_rules(given: Iterable[Mapping[str, str]]) -> list[Rule]:
    """The operator's rules. Raises ConfigError that names the rule and what is wrong with it."""
    rules: list[Rule] = []
    for number, entry in enumerate(given, 1):
        name = entry.get("name", "")
        where = f"redaction.rules: {name or f'rule {number}'}"
        if set(entry) != {"name", "pattern"}:
            raise ConfigError(f"{where}: write each rule as {{ name = …, pattern = … }}")
        if not _RULE_NAME.fullmatch(name):
            raise ConfigError(f"{where}: use letters, digits, '_', '.' and '-', 64 at most")
        rules.append(Rule(name, entry["pattern"]))
        try:
            compiled = _compiled(entry["pattern"])
        except re2.error as error:
            raise ConfigError(f"{where}: RE2 does not accept the pattern: {_said(error)}") from None
        if compiled.search(b"") is not None:
            raise ConfigError(f"{where}: the pattern matches the empty text: ask for more")
    return rules


def _said(error: Exception) -> str:
    text = error.args[0] if error.args else error
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern.encode("utf-8", "surrogatepass"), options)


class RuleSet:
    """Compiled rules in order of precedence."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = [_Compiled(rule, _compiled(rule.pattern)) for rule in rules]
        self._always = {n for n, rule in enumerate(self._rules) if not rule.rule.keywords}
        self._by_keyword: list[int] = []
        options = re2.Options()
        options.case_sensitive = False
        options.log_errors = False
        self._keywords = re2.Set.SearchSet(options)
        for number, rule in enumerate(self._rules):
            for keyword in rule.rule.keywords:
                self._keywords.Add(keyword.encode())
                self._by_keyword.append(number)
        if self._by_keyword:
            self._keywords.Compile()

    def apply(self, text: str, counts: Counter[str]) -> str:
        """The text with every secret replaced; what was found is added to `counts`."""
        given = data = text.encode("utf-8", "surrogatepass")
        for _ in range(PASSES_MAX):
            before = data
            for compiled in self._candidates(data):
                data, count = compiled.apply(data)
                if count:
                    counts[compiled.rule.name] += count
            if data == before:
                break
        return text if data == given else data.decode("utf-8", "surrogatepass")

    def _candidates(self, data: bytes) -> list[_Compiled]:
        """The rules that could match this text, in order of precedence. One scan."""
        found = self._keywords.Match(data) if self._by_keyword else None
        numbers = self._always.union(self._by_keyword[n] for n in found or ())
        return [self._rules[number] for number in sorted(numbers)]


@dataclass(frozen=True, slots=True)
class _Compiled:
    rule: Rule
    pattern: Any  # a compiled RE2, which is not typed

    def apply(self, data: bytes) -> tuple[bytes, int]:
        kept: list[bytes] = []
        mark = f"[REDACTED:{self.rule.name}]".encode()
        has_marks = _MARK_START in data
        groups = range(1, self.pattern.groups + 1)
        count = end = 0
        for found in self.pattern.finditer(data):
            for first, last in self._secrets(data, _secret_span(found, groups)):
                if has_marks and _is_within_mark(data, first, last):
                    continue
                kept += (data[end:first], mark)
                count, end = count + 1, last
        return (b"".join((*kept, data[end:])), count) if count else (data, 0)

    def _secrets(self, data: bytes, span: Span) -> Iterator[Span]:
        """The secrets in a match, as the rule judges them."""
        first, last = span
        check, within = self.rule.check, self.rule.within
        if first == last:
            return
        text = data[first:last].decode("utf-8", "replace") if check or within else ""
        if within is not None:  # its matches are ASCII: offsets of characters are those of bytes
            yield from ((first + start, first + end) for start, end in within(text))
        elif check is None or check(text):
            yield span


def _secret_span(found: Any, groups: range) -> Span:
    """The group that took part, else the whole match."""
    for group in groups:
        span: Span = found.span(group)
        if span[0] >= 0:
            return span
    whole: Span = found.span()
    return whole


def _is_within_mark(data: bytes, first: int, last: int) -> bool:
    """Whether a match is a mark or cuts one. A match around a mark and more is still a secret."""
    window = max(0, first - MARK_CHARS_MAX)
    for mark in _MARK.finditer(data, window, last + MARK_CHARS_MAX):
        cuts = mark.start() < last and first < mark.end()
        if cuts and not (first <= mark.start() and mark.end() <= last):
            return True
        if (mark.start(), mark.end()) == (first, last):
            return True
    return False
