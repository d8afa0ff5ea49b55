"""Recompute: derive rows again after decoders or rules improved, and say what changed.

Calls: every row whose raw exchange is kept (`capture.raw = "all"`) is decoded, counted, priced and
redacted again under the present configuration. What others found out about a row (its place in a
conversation) is not touched; what follows from the call alone is replaced.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from proxy.assemble import CAPTURED, Assembled, Assembler
from proxy.captured import unpacked
from proxy.config import Config
from proxy.enrich.digests import Digests
from proxy.enrich.redact import JSON_COLUMNS
from proxy.errors import ProxyError
from proxy.record import COLUMNS
from proxy.store import raw
from proxy.store.postgres import Row, Store
from proxy.store.storable import storable

# Not of the call alone: who it belongs to is also inferred from other calls.
LINKED = frozenset({"session_id", "turn_id", "round", "parent_id"})
_FIXED = frozenset({"id", "created_at", "record_type"})
_ROW = (
    "SELECT * FROM agent_telemetry_full WHERE id = $1 AND NOT COALESCE(capture ? 'rejected', FALSE)"
)


@dataclass(slots=True)
class Changes:
    """What deriving again has changed."""

    rows: int = 0  # looked at
    changed: int = 0
    outdated: int = 0  # made by another version of the decoders than this one
    unreadable: int = 0  # raw copies that are no exchange
    columns: Counter[str] = field(default_factory=Counter)  # in how many rows each has changed


async def recompute_calls(
    config: Config, store: Store, digests: Digests, since: datetime, advance: Callable[[], None]
) -> Changes:
    """Derive the call columns again. Raises StoreUnavailable or StoreMisconfigured."""
    changes = Changes()
    assembler = Assembler(config, digests)
    async for copy in raw.copies(store, kept=True, since=since):
        advance()
        found = await store.fetch(_ROW, copy.id)
        if not found:
            continue
        try:
            assembled = assembler.assembled(unpacked(copy.exchange))
        except ProxyError:
            changes.unreadable += 1
            continue
        changes.rows += 1
        made_by = (found[0]["capture"] or {}).get("decoder")
        changes.outdated += made_by != (assembled.record.capture or {}).get("decoder")
        changed = _changed(found[0], assembled)
        if changed:
            beside = replace(assembled.beside, link=None)  # linking is done again by itself
            await store.amend(copy.id, changed, beside)
            changes.changed += 1
            changes.columns.update(changed.keys())
    return changes


def _changed(row: Row, assembled: Assembled) -> dict[str, Any]:
    """The columns that differ, with their new values as the store takes them."""
    record = assembled.record
    given = dict(zip(COLUMNS, storable(record), strict=True))
    given["capture"] = _merged(row["capture"] or {}, json.loads(given["capture"] or "{}"))
    return {
        name: value
        for name, value in given.items()
        if name not in _FIXED
        and not (name in LINKED and value is None)
        and row[name] != (json.loads(value) if name in JSON_COLUMNS and value else value)
    }


def _merged(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`capture` with what assembling says now; what others noted there stays."""
    noted = {name: value for name, value in earlier.items() if name not in CAPTURED}
    source = earlier.get("session_source")
    inferred = {"session_source": source} if source and "session_source" not in now else {}
    return json.dumps({**noted, **inferred, **now}, ensure_ascii=False)
