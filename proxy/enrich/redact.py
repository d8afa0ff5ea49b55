"""Redaction: a record in, the same record without secrets out.

Every text and JSON column is walked, the names in objects included (a key used as a dictionary
key is still a key). Two searches run over each string: the call's own credentials (`credentials`)
and the rules (`redact_rules`, the operator's own, opted-in personal data) on RE2. What is found is
replaced with `[REDACTED:rule]`. A second pass over the result changes nothing.

Agents send the same history in each round, so results are kept per message, by digest, up to a
fixed weight. Nothing here logs, and a failure is the caller's to answer with `metadata_only`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import orjson

from proxy.call import Json
from proxy.config import Redaction
from proxy.enrich.credentials import Credentials
from proxy.enrich.digests import Digests
from proxy.enrich.media import is_reference
from proxy.enrich.redact_rules import PII, SECRETS
from proxy.enrich.ruleset import PASSES_MAX, RuleSet, own_rules
from proxy.exchange import Secret, Start
from proxy.nouns import noun
from proxy.record import TelemetryRecord

CREDENTIAL = "credential"
TOO_DEEP = "too_deep"
DEPTH_MAX = 200  # below Python's recursion limit; what lies deeper is replaced, not passed on
NUMBER_MIN = 10**12  # a shorter one is no card
CACHED_CHARS_MIN = 64  # a shorter text is searched sooner than looked up
CACHE_ENTRIES_MAX = 20_000
SOUGHT_MAX = 256  # agents' keys; each is known by another name in each gateway process
CACHE_BYTES_MAX = 32 * 1024 * 1024  # of results that differ from what came in

TEXT_COLUMNS = (
    *("project_id", "session_id", "user_message", "model_used", "system_prompt", "response_text"),
    *("response_thoughts", "stop_reason", "turn_intent", "chat_mode", "provider", "error"),
    *("finish_reason", "provider_request_id", "client"),
)
JSON_COLUMNS = (
    *("chat_history", "tool_calls", "tool_results", "request_params", "usage", "labels"),
    "capture",
)
NAME_COLUMNS = ("project_id", "session_id")  # and in `capture` the turn's label
_OWN_HASHES = ("request_sha256", "response_sha256")
CAPTURED_CONTENT = ("choices", "media")  # what in `capture` the model said or showed

# Outcomes whose error text is the gateway's own and cannot quote a prompt or an answer.
_OWN_ERRORS = frozenset({"upstream_unreachable", "upstream_timeout", "proxy_crashed"})


class Redactor:
    """Applies one configuration. Not safe for use by several threads at once."""

    def __init__(self, config: Redaction, digests: Digests | None = None) -> None:
        """Without the database's digests names that differ may become one.

        Raises ConfigError where a rule of the operator cannot be used.
        """
        own = own_rules(config.rules)
        opted_in = [rule for rule in PII if rule.name in config.pii]
        self._rules = RuleSet([*SECRETS, *opted_in, *own] if config.enabled else [])
        self._seen = _Seen()
        self._digests = digests
        self._sought: OrderedDict[tuple[str, tuple[Secret, ...]], _Sought] = OrderedDict()

    def scan(self, start: Start) -> Scan:
        """The search through what one call brought."""
        key = start.salt, start.secrets
        sought = self._sought.get(key)
        if sought is None:
            sought = self._sought[key] = _Sought.of(start)
            if len(self._sought) > SOUGHT_MAX:
                self._sought.popitem(last=False)
        return Scan(self._rules, self._seen, sought, self._digests)


def metadata_only(record: TelemetryRecord, *, with_labels: bool = True) -> TelemetryRecord:
    """The record without any prompt, answer or tool content; names of tools stay.

    `with_labels` is False where redaction failed: labels are the agent's own text too.
    """
    given = (record.capture or {}).items()
    capture = {name: value for name, value in given if name not in CAPTURED_CONTENT}
    return replace(
        record,
        system_prompt="",
        chat_history=[],
        user_message=None,
        response_text=None,
        response_thoughts=None,
        tool_calls=_without(record.tool_calls, ("id", "name", "round", "server"), "arguments"),
        tool_results=_without(
            record.tool_results, ("id", "name", "round", "is_error", "latency_ms"), "output"
        ),
        request_params=None,
        error=record.error if record.outcome in _OWN_ERRORS else None,
        labels=record.labels if with_labels else None,
        capture=capture | {"content": "metadata"},
    )


def _without(items: list[Json] | None, kept: Iterable[str], content: str) -> list[Json] | None:
    if items is None:
        return None
    return [
        {name: item[name] for name in kept if name in item} | {content: None}
        for item in items
        if isinstance(item, dict)
    ]


class _Seen:
    """Results of earlier parts by digest: the changed form, or None where nothing changed.

    Of short texts only those are noted in which nothing was found; they are names for the most
    part, and begin anew when there are too many.
    """

    def __init__(self) -> None:
        self._results: OrderedDict[bytes, _Result] = OrderedDict()
        self._bytes = 0
        self.harmless: set[tuple[bytes, str]] = set()  # what was looked for, and the text

    def note_harmless(self, context: bytes, text: str) -> None:
        if len(self.harmless) >= CACHE_ENTRIES_MAX:
            self.harmless.clear()
        self.harmless.add((context, text))

    def get(self, key: bytes) -> _Result | None:
        found = self._results.get(key)
        if found is not None:
            self._results.move_to_end(key)
        return found

    def put(self, key: bytes, result: _Result) -> None:
        if result.weight > CACHE_BYTES_MAX // 4:
            return
        self._results[key] = result
        self._bytes += result.weight
        while len(self._results) > CACHE_ENTRIES_MAX or self._bytes > CACHE_BYTES_MAX:
            self._bytes -= self._results.popitem(last=False)[1].weight


@noun(frozen=True, slots=True)
class _Result:
    changed: Json  # meaningless where weight is 0: the part stays as it is
    counts: Counter[str]
    weight: int


_UNCHANGED = _Result(None, Counter(), 0)


@noun(frozen=True, slots=True)
class _Sought:
    """What is looked for besides the rules: the same for all calls of an agent with one key."""

    credentials: Credentials
    context: bytes

    @classmethod
    def of(cls, start: Start) -> _Sought:
        digests = "".join(sorted(secret.digest for secret in start.secrets))
        context = blake2b(f"{start.salt} {digests}".encode(), digest_size=16).digest()
        return cls(Credentials.of(start), context)


class Scan:
    """The walk over what one call brought. `counts` says how often each rule has matched.

    `history` identifies each message of the record's history, cleaned, by what it was before and
    what was looked for; None where a message has no such name.
    """

    def __init__(
        self, rules: RuleSet, seen: _Seen, sought: _Sought, digests: Digests | None
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.history: list[bytes | None] = []
        self._named_history: list[Json] | None = None
        self._rules = rules
        self._seen = seen
        self._digests = digests
        self._credentials = sought.credentials
        self._context = sought.context

    def record(self, record: TelemetryRecord) -> TelemetryRecord:
        """The record without secrets."""
        changed: dict[str, Any] = {}
        for column in TEXT_COLUMNS:
            text = getattr(record, column)
            if text:
                changed[column] = self.name(text) if column in NAME_COLUMNS else self.text(text)
        for column in JSON_COLUMNS:
            value = getattr(record, column)
            if value and column == "chat_history":
                changed[column] = self._messages(value)
            elif value and column == "capture":
                own = {name: value[name] for name in _OWN_HASHES if name in value}
                if isinstance(label := value.get("turn_label"), str):
                    own["turn_label"] = self.name(label)
                given = {name: item for name, item in value.items() if name not in own}
                changed[column] = {**own, **self._object(given, self._list)}
            elif value:
                changed[column] = self._parts(value)
        return replace(record, **changed) if self.counts else record

    def json(self, value: dict[str, Json]) -> Json:
        """One object without secrets."""
        return self._parts(value)

    def name(self, text: str) -> str:
        """The name of a project, session or turn without secrets. Two that differ still do: a
        keyed digest of the whole stands behind a name that was changed."""
        clean = self.text(text)
        if clean == text or self._digests is None:
            return clean
        return f"{clean}-{self._digests.of('name', text)}"

    def text(self, text: str) -> str:
        """One text without secrets."""
        if len(text) < CACHED_CHARS_MIN:
            if (self._context, text) in self._seen.harmless:
                return text
            return self._short(text)
        key = self._digest(b"text", text.encode("utf-8", "surrogatepass"))
        known = self._seen.get(key)
        if known is None:
            found: Counter[str] = Counter()
            clean = self._searched(text, found)
            known = _Result(clean, found, len(clean) * 4) if found else _UNCHANGED
            self._seen.put(key, known)
        if not known.weight:
            return text
        self.counts.update(known.counts)
        return str(known.changed)

    def _short(self, text: str) -> str:
        found: Counter[str] = Counter()
        clean = self._searched(text, found)
        if found:
            self.counts.update(found)
        else:
            self._seen.note_harmless(self._context, text)
        return clean

    def _searched(self, text: str, found: Counter[str]) -> str:
        for _ in range(PASSES_MAX):
            scrubbed, count = self._credentials.scrub(text)
            if count:
                found[CREDENTIAL] += count
            text = self._rules.apply(scrubbed, found)
            if text == scrubbed:  # else a credential may be found that was glued to what is gone
                break
        return text

    def names(self, history: list[Json]) -> Sequence[bytes | None]:
        """What identifies each message, and what is looked for in it."""
        if self._named_history is not history:
            self._named_history = history
            self.history = [self._key(message) for message in history]
        return self.history

    def _messages(self, history: list[Json]) -> list[Json]:
        self.names(history)
        return [
            self._named(message, key) for message, key in zip(history, self.history, strict=True)
        ]

    def _parts(self, value: Json) -> Json:
        """A column, part by part: lists and the outermost object are taken apart."""
        if isinstance(value, dict):
            return self._object(value, self._list)
        return self._list(value)

    def _part(self, value: Json) -> Json:
        """One message, tool or text: looked up, else walked."""
        if isinstance(value, str):
            return self.text(value)
        if not isinstance(value, (list, dict)):
            return self._number(value)
        return self._named(value, self._key(value))

    def _named(self, value: Json, key: bytes | None) -> Json:
        if key is None:
            return self._walk(value, 0)
        known = self._seen.get(key)
        if known is None:
            before, self.counts = self.counts, Counter()
            changed = self._walk(value, 0)
            weight = len(orjson.dumps(changed)) if self.counts else 0
            known = _Result(changed, self.counts, weight) if weight else _UNCHANGED
            self.counts = before
            self._seen.put(key, known)
        if not known.weight:
            return value
        self.counts.update(known.counts)
        return known.changed

    def _key(self, value: Json) -> bytes | None:
        """A digest of the value and of what is looked for; None: not worth it or not possible."""
        if not isinstance(value, (list, dict)):
            return None  # texts are looked up one by one
        try:
            return self._digest(b"json", orjson.dumps(value))
        except TypeError:  # lone surrogates, integers over 64 bits, too deep
            return None

    def _digest(self, kind: bytes, data: bytes) -> bytes:
        """A text may be the JSON of a value that was seen as a value."""
        return blake2b(data, digest_size=16, key=self._context, person=kind).digest()

    def _list(self, value: Json) -> Json:
        """Looked up as one, since agents send the same tools each time; else item by item."""
        if not isinstance(value, list):
            return self._part(value)
        key = self._key(value) if len(value) > 1 else None
        if key is not None and (key, "") in self._seen.harmless:
            return value
        before, self.counts = self.counts, Counter()
        items = [self._part(item) for item in value]
        if key is not None and not self.counts:
            self._seen.note_harmless(key, "")
        self.counts = before + self.counts
        return items

    def _walk(self, value: Json, depth: int) -> Json:
        if isinstance(value, str):
            return self.text(value)
        if not isinstance(value, (list, dict)):
            return self._number(value)
        if is_reference(value):
            return value
        if depth >= DEPTH_MAX:
            self.counts[TOO_DEEP] += 1
            return f"[REDACTED:{TOO_DEEP}]"
        if isinstance(value, list):
            return [self._walk(item, depth + 1) for item in value]
        return self._object(value, lambda item: self._walk(item, depth + 1))

    def _number(self, value: Json) -> Json:
        """A number is looked into as well where it is as long as a card's."""
        if not isinstance(value, int) or value < NUMBER_MIN:
            return value
        clean = self.text(text := str(value))
        return value if clean == text else clean

    def _object(self, value: dict[str, Json], walk: Callable[[Json], Json]) -> dict[str, Json]:
        """Names are walked too; names that become alike are numbered, so that no value is lost."""
        found: dict[str, Json] = {}
        for name, item in value.items():
            clean = unique = self.text(name)
            number = 1
            while unique in found or (unique != name and unique in value):
                number += 1
                unique = f"{clean}#{number}"
            found[unique] = walk(item)
        return found
