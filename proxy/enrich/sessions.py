"""Identity: whose call this is, read from labels, headers and what the body says of itself.

Not the linking of calls into threads: what nothing names stays None here. The order is fixed (our
header, path, alias, the agent's own header, its body) and the names are data in `proxy/labels.py`.
Foreign metadata is bounded in number, depth and size; nothing in it can make this raise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import field
from functools import lru_cache

import orjson

from proxy import labels as names
from proxy.call import Json, Prompt
from proxy.exchange import Start
from proxy.nouns import noun

LABELS_MAX = 64
NAME_CHARS_MAX = 64
VALUE_CHARS_MAX = 1024
METADATA_CHARS_MAX = 16_384  # of one JSON header; a longer one is kept as cut text
CLIENT_CHARS_MAX = 100
CLIENTS_KEPT = 256  # programs whose names are not searched for again

CODEX_TURN = "x-codex-turn-metadata"

# "claude-cli/2.1.197 (external)" → name and version; "OpenAI/Python 2.54.0" → with the language.
_PRODUCT = re.compile(r"[^\s/();]+/v?\d[^\s/();]*|[^\s();]+(?: v?\d[^\s();]*)?")


@noun(frozen=True, slots=True)
class Hints:
    """What an agent says about the call's place in its conversation, beyond session and turn."""

    agent_id: str | None = None  # a sub-agent's; absent on calls of the main agent
    parent_agent_id: str | None = None
    request_kind: str | None = None  # Codex: "turn" or "compaction"
    forked_from: str | None = None  # the session whose history was copied


@noun(frozen=True, slots=True)
class Identity:
    """Who made a call, as far as the call itself says. Lengths are bounded by the store."""

    project: str | None = None
    session: str | None = None
    session_source: str | None = None  # "label", "path", "alias" or "agent"
    turn: str | None = None
    turn_source: str | None = None  # "label" or "agent"
    chat_mode: str | None = None
    turn_intent: str | None = None
    labels: dict[str, Json] = field(default_factory=dict)
    client: str | None = None  # "claude-cli/2.1.197"
    hints: Hints = field(default_factory=Hints)


def identify(start: Start, prompt: Prompt) -> Identity:
    """The identity of a call from its head and its decoded request."""
    headers = _Headers(start)
    said = start.labels
    codex = _object(headers.first((CODEX_TURN,)))
    session, session_source = _session(start, prompt, headers)
    turn_of_agent = _text(codex.get("turn_id"))
    return Identity(
        project=said.project or None,
        session=session,
        session_source=session_source,
        turn=said.turn or turn_of_agent,
        turn_source="label" if said.turn else "agent" if turn_of_agent else None,
        chat_mode=said.chat_mode or None,
        turn_intent=said.turn_intent or None,
        labels=_labels(start, prompt),
        client=_client(headers),
        hints=Hints(
            agent_id=headers.first(("x-claude-code-agent-id",)),
            parent_agent_id=headers.first(("x-claude-code-parent-agent-id",)),
            request_kind=_text(codex.get("request_kind")),
            forked_from=_text(codex.get("forked_from_thread_id")),
        ),
    )


class _Headers:
    """The kept request headers by name, the first of each, empty ones left out."""

    def __init__(self, start: Start) -> None:
        self._values: dict[str, str] = {}
        for name, value in start.headers:
            if value.strip():
                self._values.setdefault(name, _decoded(value.strip()))

    def first(self, wanted: Iterable[str]) -> str | None:
        """The value of the first of these names that is present."""
        return next((self._values[name] for name in wanted if name in self._values), None)


def _session(start: Start, prompt: Prompt, headers: _Headers) -> tuple[str | None, str | None]:
    if start.labels.session:
        return start.labels.session, start.labels.session_source or "label"
    if alias := headers.first(names.SESSION_ALIASES):
        return alias, "alias"
    if own := headers.first(names.SESSION_AGENTS) or prompt.session_hint:
        return own, "agent"
    return None, None


def _labels(start: Start, prompt: Prompt) -> dict[str, Json]:
    """Ours first: where two sources give one name, the more deliberate one wins."""
    found: dict[str, Json] = {}
    for name, value in _all_labels(start, prompt):
        if len(found) >= LABELS_MAX:
            break
        if name:
            found.setdefault(name[:NAME_CHARS_MAX], value)
    return found


def _all_labels(start: Start, prompt: Prompt) -> Iterator[tuple[str, Json]]:
    for name, value in start.labels.extra:
        yield name, _cut(value)
    for name, value in start.headers:
        yield from _from_header(name, _decoded(value))
    for name, value in prompt.labels:
        yield name, _cut(value)


def _from_header(header: str, value: str) -> Iterator[tuple[str, Json]]:
    label = names.LABEL_HEADERS.get(header)
    if label is None:
        if header.startswith(names.KEPT_REQUEST_PREFIXES):
            prefix = next(p for p in names.KEPT_REQUEST_PREFIXES if header.startswith(p))
            yield header[len(prefix) :], _cut(value)
    elif header == "x-litellm-tags":
        tags = [_cut(tag.strip()) for tag in value.split(",") if tag.strip()]
        yield label, list[Json](tags[:LABELS_MAX])
    elif not value.lstrip().startswith("{"):
        # A header without a label of its own holds an object; anything else has no name to go by.
        yield label, _cut(value)
    elif label:
        yield label, _bounded(_object(value)) or _cut(value)
    else:
        yield from _bounded(_object(value)).items()


def _object(text: str | None) -> dict[str, Json]:
    """The JSON object in a header; empty where there is none or it is over-long."""
    if text is None or len(text) > METADATA_CHARS_MAX:
        return {}
    try:
        value = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _bounded(found: dict[str, Json]) -> dict[str, Json]:
    """One level of plain values; deeper ones as their JSON text, all of them cut."""
    return {
        name[:NAME_CHARS_MAX]: _plain(value) for name, value in list(found.items())[:LABELS_MAX]
    }


def _plain(value: Json) -> Json:
    if isinstance(value, str):
        return _cut(value)
    if not isinstance(value, (list, dict)):
        return value
    try:
        return _cut(orjson.dumps(value).decode())
    except TypeError:  # it reads nesting four times as deep as it writes
        return "…"


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_CHARS_MAX else text[: VALUE_CHARS_MAX - 1] + "…"


def _text(value: Json | None) -> str | None:
    return _cut(value) if isinstance(value, str) and value else None


def _decoded(value: str) -> str:
    """A header's text: UTF-8 where its bytes are valid as such, else as it was read."""
    if value.isascii():
        return value
    try:
        return value.encode("iso-8859-1").decode("utf-8")
    except UnicodeError:
        return value


def _client(headers: _Headers) -> str | None:
    """A short name and version of the program that called, from the most to the least telling."""
    agent = headers.first(("user-agent", "originator", "x-app"))
    if agent is None:
        return None
    return _product(agent)


@lru_cache(CLIENTS_KEPT)
def _product(agent: str) -> str | None:
    found = _PRODUCT.search(agent)
    return found.group()[:CLIENT_CHARS_MAX] if found else None
