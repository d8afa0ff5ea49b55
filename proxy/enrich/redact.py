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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import orjson

from proxy.call import Json
from proxy.config import Redaction
from proxy.enrich.credentials import Credentials
from proxy.enrich.media import is_reference
from proxy.enrich.redact_rules import PII, SECRETS
from proxy.enrich.ruleset import RuleSet, own_rules
from proxy.exchange import Start
from proxy.record import TelemetryRecord

CREDENTIAL = "credential"
TOO_DEEP = "too_deep"
DEPTH_MAX = 200  # below Python's recursion limit; what lies deeper is replaced, not passed on
CACHED_CHARS_MIN = 64  # a shorter text is searched sooner than looked up
CACHE_ENTRIES_MAX = 20_000
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
CAPTURED_CONTENT = ("choices", "media")  # what in `capture` the model said or showed

# Outcomes whose error text is the gateway's own and cannot quote a prompt or an answer.
_OWN_ERRORS = frozenset({"upstream_unreachable", "upstream_timeout", "proxy_crashed"})


class Redactor:
    """Applies one configuration. Not safe for use by several threads at once."""

    def __init__(self, config: Redaction) -> None:
        """Raises ConfigError where a rule of the operator cannot be used."""
        own = own_rules(config.rules)
        opted_in = [rule for rule in PII if rule.name in config.pii]
        self._rules = RuleSet([*SECRETS, *opted_in, *own] if config.enabled else [])
        self._seen = _Seen()

    def scan(self, start: Start) -> Scan:
        """The search through what one call brought."""
        return Scan(self._rules, self._seen, start)


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
    """Results of earlier parts by digest: the changed form, or None where nothing changed."""

    def __init__(self) -> None:
        self._results: OrderedDict[bytes, _Result] = OrderedDict()
        self._bytes = 0

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


@dataclass(frozen=True, slots=True)
class _Result:
    changed: Json  # meaningless where weight is 0: the part stays as it is
    counts: Counter[str]
    weight: int


class Scan:
    """The walk over what one call brought. `counts` says how often each rule has matched."""

    def __init__(self, rules: RuleSet, seen: _Seen, start: Start) -> None:
        self.counts: Counter[str] = Counter()
        self._rules = rules
        self._seen = seen
        self._credentials = Credentials.of(start)
        digests = "".join(sorted(secret.digest for secret in start.secrets))
        self._context = blake2b(f"{start.salt} {digests}".encode(), digest_size=16).digest()

    def record(self, record: TelemetryRecord) -> TelemetryRecord:
        """The record without secrets."""
        changed: dict[str, Any] = {}
        for column in TEXT_COLUMNS:
            text = getattr(record, column)
            if text:
                changed[column] = self._part(text)
        for column in JSON_COLUMNS:
            value = getattr(record, column)
            if value:
                changed[column] = self._parts(value)
        return replace(record, **changed)

    def json(self, value: dict[str, Json]) -> Json:
        """One object without secrets."""
        return self._parts(value)

    def text(self, text: str) -> str:
        """One text without secrets."""
        scrubbed, count = self._credentials.scrub(text)
        if count:
            self.counts[CREDENTIAL] += count
        return self._rules.apply(scrubbed, self.counts)

    def _parts(self, value: Json) -> Json:
        """A column, part by part: lists and the outermost object are taken apart."""
        if isinstance(value, dict):
            return self._object(value, lambda item: self._list(item))
        return self._list(value)

    def _part(self, value: Json) -> Json:
        """One message, tool or text: looked up, else walked."""
        key = self._key(value)
        if key is None:
            return self._walk(value, 0)
        known = self._seen.get(key)
        if known is None:
            before, self.counts = self.counts, Counter()
            changed = self._walk(value, 0)
            weight = len(orjson.dumps(changed)) if self.counts else 0
            known = _Result(changed if weight else None, self.counts, weight)
            self.counts = before
            self._seen.put(key, known)
        self.counts.update(known.counts)
        return known.changed if known.weight else value

    def _key(self, value: Json) -> bytes | None:
        """A digest of the value and of what is looked for; None: not worth it or not possible."""
        if not isinstance(value, (list, dict)) and not (
            isinstance(value, str) and len(value) >= CACHED_CHARS_MIN
        ):
            return None
        try:
            data = orjson.dumps(value)
        except TypeError:  # lone surrogates, integers over 64 bits, too deep
            return None
        return blake2b(data, digest_size=16, key=self._context).digest()

    def _list(self, value: Json) -> Json:
        if isinstance(value, list):
            return [self._part(item) for item in value]
        return self._part(value)

    def _walk(self, value: Json, depth: int) -> Json:
        if isinstance(value, str):
            return self.text(value)
        if not isinstance(value, (list, dict)) or is_reference(value):
            return value
        if depth >= DEPTH_MAX:
            self.counts[TOO_DEEP] += 1
            return f"[REDACTED:{TOO_DEEP}]"
        if isinstance(value, list):
            return [self._walk(item, depth + 1) for item in value]
        return self._object(value, lambda item: self._walk(item, depth + 1))

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
