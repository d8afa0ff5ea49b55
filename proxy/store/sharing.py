"""Sharing: what calls have in common, told apart from what is a row's own. Pure.

Messages, the system prompt and schemas (of tools and of answers) are named by a hash of their JSON
text with sorted keys. A history is named by a hash of the history before its last message and that
message, so two that begin alike have the names of their beginnings in common.

The row itself then holds small values in their place: `''`, `[]`, and the other parameters.
What is not of the usual shape stays in the row as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypeAlias

import orjson

from proxy.record import TelemetryRecord
from proxy.store.jsonb import Cleaning, json_pieces, json_text
from proxy.store.storable import Rule, required_text, storable

NO_HISTORY, NO_PROMPT = "[]", ""  # what the row holds instead
COLUMNS = frozenset({"chat_history", "system_prompt", "request_params"})
# Parameters that hold schemas, by the names that providers give them.
SCHEMAS = frozenset({"tools", "functions", "toolConfig", "response_format", "text", "format"})

# A history of one message this short stays in its row: most such calls are alone, and storing it
# beside the row costs more than it saves. A call that goes on with it stores the message then.
ALONE_CHARS_MAX = 4096
MESSAGES_MAX = 10_000  # of a history; no agent sends as many, and each is two rows
SCHEMAS_BYTES_MAX = 4 * 1024 * 1024  # with the other parameters; more stays in the row

Hash: TypeAlias = bytes
HASH_BYTES = 16  # of BLAKE2b; collisions are out of reach up to 2^64 messages


@dataclass(slots=True)
class Shared:
    """What a row shares with others. `chain` names the history after each of its `messages`."""

    content: dict[Hash, str] = field(default_factory=dict)  # as JSON text
    messages: list[Hash] = field(default_factory=list)
    chain: list[Hash] = field(default_factory=list)
    system: Hash | None = None
    schemas: Hash | None = None

    @property
    def size_bytes(self) -> int:
        heads = [hash for hash in (self.system, self.schemas) if hash is not None]
        return sum(len(self.content[hash]) for hash in (*self.messages, *heads))

    def add_history(self, pieces: Iterable[str]) -> None:
        """Take the messages, as JSON text with sorted keys."""
        before = b""
        for piece in pieces:
            message = self._add(piece)
            before = blake2b(before + message, digest_size=HASH_BYTES).digest()
            self.messages.append(message)
            self.chain.append(before)

    def add_system(self, text: str) -> None:
        self.system = self._add(orjson.dumps(text).decode())

    def add_schemas(self, piece: str) -> None:
        self.schemas = self._add(piece)

    def _add(self, piece: str) -> Hash:
        hash = blake2b(piece.encode(), digest_size=HASH_BYTES).digest()
        self.content[hash] = piece
        return hash


def split(record: TelemetryRecord) -> tuple[tuple[Any, ...], Shared | None]:
    """The record's values as `storable` gives them, less what it shares (None: nothing)."""
    shared = Shared()
    row = storable(record, _rules(shared))
    return row, shared if shared.content else None


def split_values(values: Mapping[str, Any]) -> tuple[dict[str, Any], Shared]:
    """The same for columns of a row whose values are storable already."""
    shared = Shared()
    rules = _rules(shared)
    own = dict(values)
    for name in COLUMNS & own.keys():
        is_json = name != "system_prompt" and own[name] is not None
        own[name] = rules[name](json.loads(own[name]) if is_json else own[name], Cleaning())
    return own, shared


def _rules(shared: Shared) -> dict[str, Rule]:
    """The rules of the columns that share, which put their content into `shared`."""

    def system_prompt(value: Any, cleaning: Cleaning) -> str:
        text = required_text(value, cleaning)
        if text:
            shared.add_system(text)
        return NO_PROMPT

    def chat_history(value: Any, cleaning: Cleaning) -> str:
        if isinstance(value, list) and len(value) == 1:
            alone = json_text(value, noted := Cleaning()) or NO_HISTORY
            if len(alone) <= ALONE_CHARS_MAX:
                cleaning.reasons |= noted.reasons
                return alone
        if _are_messages(value) and (pieces := json_pieces(value, cleaning)):
            shared.add_history(pieces)
            return NO_HISTORY
        return json_text(value, cleaning) or NO_HISTORY

    def request_params(value: Any, cleaning: Cleaning) -> str | None:
        if not isinstance(value, dict):
            return json_text(value, cleaning)
        schemas = {k: v for k, v in value.items() if k in SCHEMAS and isinstance(v, dict | list)}
        own = {k: v for k, v in value.items() if k not in schemas}
        noted = Cleaning()
        piece = json_text(schemas, noted, orjson.OPT_SORT_KEYS) or ""
        rest = json_text(own, noted) or ""
        if not schemas or noted.reasons or len(piece) + len(rest) > SCHEMAS_BYTES_MAX:
            return json_text(value, cleaning)
        shared.add_schemas(piece)
        return rest

    return {
        "system_prompt": system_prompt,
        "chat_history": chat_history,
        "request_params": request_params,
    }


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MESSAGES_MAX
        and all(isinstance(item, dict) for item in value)
    )
