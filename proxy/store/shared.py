"""Shared: what calls have in common, written once, in the transaction of their rows.

What is there already is locked against deletion (FOR KEY SHARE) wherever something new is about to
refer to it; what is not there is inserted. A history that is there keeps all of its beginnings and
messages there (`prune` deletes from the end), so of each history only the longest part that is
known has to be locked. Which that is, is remembered: a guess that is wrong, because somebody
pruned, shows when it cannot be locked, and the whole history is looked up.

A day has tables of its own where the store is partitioned (`partitions`).
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from proxy.record import TelemetryRecord
from proxy.store.connection import Connection
from proxy.store.partitions import UNDATED, is_there
from proxy.store.sharing import COLUMNS, Hash, Shared, split, split_values

KNOWN_MAX = 200_000  # histories remembered; about 150 bytes each
SHORT = 2  # messages of a history that is inserted at once; longer ones are looked up first
NEAR = timedelta(days=1)  # calls of other days lie outside of the partitions: they may be dropped

_LOCK_CHAINS = "SELECT hash FROM agent_chains WHERE day = $1 AND hash = ANY($2) FOR KEY SHARE"
_LOCK_MESSAGES = "SELECT hash FROM agent_messages WHERE day = $1 AND hash = ANY($2) FOR KEY SHARE"
# In one order everywhere, so that two writers wait for each other and do not lock each other out.
_CHAINS = """
INSERT INTO agent_chains (day, hash, before, message)
SELECT $1, hash, before, message FROM unnest($2::uuid[], $3::uuid[], $4::uuid[])
    AS given (hash, before, message) ORDER BY hash
ON CONFLICT DO NOTHING RETURNING hash
"""
_MESSAGES = """
INSERT INTO agent_messages (day, hash, content)
SELECT $1, hash, content::jsonb FROM unnest($2::uuid[], $3::text[]) AS given (hash, content)
    ORDER BY hash
ON CONFLICT DO NOTHING RETURNING hash
"""
_CONTEXTS = """
INSERT INTO agent_contexts (day, call_id, history, system, schemas, size_bytes)
SELECT $1, * FROM unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::integer[])
ON CONFLICT (call_id) DO UPDATE SET day = excluded.day, history = excluded.history,
    system = excluded.system, schemas = excluded.schemas, size_bytes = excluded.size_bytes
"""
_LOCK_ROW = "SELECT FROM agent_telemetry WHERE id = $1 FOR UPDATE"
_CONTEXT = "SELECT day FROM agent_contexts WHERE call_id = $1"
_REFERENCES = {"chat_history": "history", "system_prompt": "system", "request_params": "schemas"}
_FORGET = "DELETE FROM agent_contexts WHERE call_id = ANY($1)"


@dataclass(frozen=True, slots=True)
class Amendment:
    """New values of these columns of a row that shares them."""

    day: date
    columns: frozenset[str]
    shared: Shared


class SharedWriter:
    """Splits the rows of one batch at a time and writes what they share."""

    def __init__(self, *, is_partitioned: bool) -> None:
        self._is_partitioned = is_partitioned
        self._batch: dict[UUID, tuple[datetime, Shared]] = {}
        self._known: OrderedDict[tuple[date, Hash], None] = OrderedDict()
        self._new: list[tuple[date, Hash]] = []

    def rows(self, records: Iterable[TelemetryRecord]) -> Iterator[tuple[Any, ...]]:
        """The rows of a batch, without what they share, which is kept for `write`."""
        self._batch.clear()
        for record in records:
            row, shared = split(record)
            if shared is not None:
                self._batch[record.id] = record.created_at, shared
            yield row

    async def write(self, connection: Connection, written: Collection[UUID]) -> None:
        """Store what those of the rows share that were written just now."""
        ours = {id: self._batch[id] for id in written if id in self._batch}
        await self.write_shared(connection, ours)

    async def write_shared(
        self, connection: Connection, ours: Mapping[UUID, tuple[datetime, Shared]]
    ) -> None:
        """Store this, and have the rows with these ids refer to it; each with its `created_at`."""
        self._new.clear()
        open_days = await self._open_days(connection) if ours else set()
        by_day: dict[date, dict[UUID, Shared]] = defaultdict(dict)
        for id, (created_at, shared) in ours.items():
            day = _day(created_at)
            by_day[day if day in open_days else UNDATED][id] = shared
        for day, shared_by_id in sorted(by_day.items()):
            await self.store(connection, day, list(shared_by_id.values()))
            await connection.execute(_CONTEXTS, day, *_contexts(shared_by_id))

    def committed(self) -> None:
        """Remember what was written: its transaction is committed."""
        for key in self._new:
            self._known[key] = None
            self._known.move_to_end(key)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    async def _open_days(self, connection: Connection) -> set[date]:
        """The days whose tables nobody is about to drop."""
        if not self._is_partitioned:
            return set()
        today = datetime.now(UTC).date()
        near = (today - NEAR, today, today + NEAR)
        return {day for day in near if await is_there(connection, day)}

    async def store(self, connection: Connection, day: date, given: Sequence[Shared]) -> None:
        """Have all of it there, and nobody delete it before the transaction ends."""
        chains = await self._missing_chains(connection, day, given)
        heads: dict[Hash, str] = {}
        fresh: dict[Hash, str] = {}
        for shared in given:
            named = (hash for hash in (shared.system, shared.schemas) if hash is not None)
            heads.update((hash, shared.content[hash]) for hash in named)
            for hash, message in zip(shared.chain, shared.messages, strict=True):
                if hash in chains:
                    fresh[message] = shared.content[message]
        await _ensure_messages(connection, day, heads, fresh)
        await _ensure_chains(connection, day, chains)
        self._new += [(day, shared.chain[-1]) for shared in given if shared.chain]

    async def _missing_chains(
        self, connection: Connection, day: date, given: Sequence[Shared]
    ) -> dict[Hash, tuple[Hash | None, Hash]]:
        """What is to be inserted: history → the one before, and the message. The rest is locked."""
        guesses = {guess for shared in given if (guess := self._guess(day, shared)) is not None}
        locked = await _locked(connection, _LOCK_CHAINS, day, guesses)
        unsure = [
            shared
            for shared in given
            if len(shared.chain) > SHORT and self._guess(day, shared) not in locked
        ]
        if unsure:
            looked_up = {hash for shared in unsure for hash in shared.chain} - locked
            locked |= await _locked(connection, _LOCK_CHAINS, day, looked_up)
        missing: dict[Hash, tuple[Hash | None, Hash]] = {}
        for shared in given:
            for at in range(len(shared.chain) - 1, -1, -1):
                if shared.chain[at] in locked:
                    break
                before = shared.chain[at - 1] if at else None
                missing[shared.chain[at]] = before, shared.messages[at]
        return missing

    def _guess(self, day: date, shared: Shared) -> Hash | None:
        """The longest part of the history that was there when it was last looked at."""
        for hash in reversed(shared.chain):
            if (day, hash) in self._known:
                return hash
        return None


async def forget(connection: Connection, ids: Collection[UUID]) -> None:
    """The rows with these ids hold everything themselves from now on."""
    if ids:
        await connection.execute(_FORGET, list(ids))


async def split_amendment(
    connection: Connection, id: UUID, columns: Mapping[str, Any]
) -> tuple[dict[str, Any], Amendment | None]:
    """New values of a row's columns: what goes into the row, and what it shares with others."""
    touched = COLUMNS & columns.keys()
    if not touched:
        return dict(columns), None
    await connection.execute(_LOCK_ROW, id)  # against whoever converts it meanwhile
    context = await connection.fetchrow(_CONTEXT, id)
    if context is None:
        return dict(columns), None
    own, shared = split_values(columns)
    return own, Amendment(context["day"], touched, shared)


async def amend_shared(connection: Connection, id: UUID, amendment: Amendment) -> None:
    """Have the row, which refers to something already, refer to these values instead."""
    shared, day = amendment.shared, amendment.day
    await SharedWriter(is_partitioned=False).store(connection, day, [shared])
    names = [_REFERENCES[column] for column in sorted(amendment.columns)]
    changes = ", ".join(f"{name} = ${place}" for place, name in enumerate(names, 2))
    references = dict(zip(("history", "system", "schemas"), _references(shared), strict=True))
    await connection.execute(
        f"UPDATE agent_contexts SET {changes} WHERE call_id = $1",  # noqa: S608 - our own names
        id,
        *(references[name] for name in names),
    )


def _day(created_at: Any) -> date:
    """The day of a call, in UTC."""
    if not isinstance(created_at, datetime) or created_at.year in (1, 9999):
        return UNDATED
    return (created_at.astimezone(UTC) if created_at.tzinfo else created_at).date()


def _contexts(given: Mapping[UUID, Shared]) -> list[list[Any]]:
    """The columns of the contexts' rows."""
    rows = [(id, *_references(given[id]), given[id].size_bytes) for id in sorted(given)]
    return [list(column) for column in zip(*rows, strict=True)]


def _references(shared: Shared) -> tuple[str | None, str | None, str | None]:
    """The history, the system prompt and the schemas."""
    history = shared.chain[-1] if shared.chain else None
    return _uuid(history), _uuid(shared.system), _uuid(shared.schemas)


async def _ensure_chains(
    connection: Connection, day: date, missing: dict[Hash, tuple[Hash | None, Hash]]
) -> None:
    """Insert these histories. One that another writer was quicker with is locked instead."""
    while missing:
        rows = [(_uuid(hash), _uuid(before), _uuid(m)) for hash, (before, m) in missing.items()]
        done = await connection.fetch(_CHAINS, day, *map(list, zip(*rows, strict=True)))
        missing = await _left(connection, _LOCK_CHAINS, day, missing, done)


async def _ensure_messages(
    connection: Connection, day: date, heads: dict[Hash, str], fresh: dict[Hash, str]
) -> None:
    """Have this content there: `heads` probably are already, `fresh` probably is not."""
    missing = await _left(connection, _LOCK_MESSAGES, day, heads, []) | fresh
    while missing:
        hashes = [_uuid(hash) for hash in missing]
        done = await connection.fetch(_MESSAGES, day, hashes, list(missing.values()))
        missing = await _left(connection, _LOCK_MESSAGES, day, missing, done)


async def _left(
    connection: Connection, lock: str, day: date, wanted: dict[Hash, Any], done: Sequence[Any]
) -> dict[Hash, Any]:
    """What is neither inserted by us nor there to be locked."""
    inserted = {row["hash"].bytes for row in done}
    rest = wanted.keys() - inserted
    locked = await _locked(connection, lock, day, rest)
    return {hash: wanted[hash] for hash in rest - locked}


async def _locked(
    connection: Connection, lock: str, day: date, hashes: Collection[Hash]
) -> set[Hash]:
    if not hashes:
        return set()
    found = await connection.fetch(lock, day, [hash.hex() for hash in hashes])
    return {row["hash"].bytes for row in found}


def _uuid(hash: Hash | None) -> str | None:
    """A hash as a value of the database's type; making a UUID of each costs ten times as much."""
    return None if hash is None else hash.hex()
