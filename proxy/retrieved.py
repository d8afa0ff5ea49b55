"""Retrieved: a response that had not ended completes the row of the call that began it.

An agent that lets a response run in the background asks for it later by its id. The first such
answer that shows it ended is what the call has come to: it is written into the call's row, once.
Answers that show a response still open, or one whose row is complete, change nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any
from uuid import UUID

from proxy.assemble import Assembled
from proxy.call import Json
from proxy.enrich.digests import Digests
from proxy.enrich.facts import link_of
from proxy.enrich.redact import metadata_only
from proxy.record import COLUMNS, Beside, TelemetryRecord
from proxy.store.postgres import Row, Store
from proxy.store.responses import IS_OPEN, begun
from proxy.store.storable import storable

_STILL_OPEN = ("queued", "in_progress")
_ANSWER = (
    *("response_text", "response_thoughts", "tool_calls", "model_used", "finish_reason"),
    *("outcome", "error"),
)
_USAGE = (
    *("usage", "usage_source", "prompt_tokens", "completion_tokens", "total_tokens"),
    *("cached_tokens", "cache_write_tokens", "reasoning_tokens", "cost_usd"),
)
_CAPTURED = ("choices", "media", "blobs")


def shows_the_end(record: TelemetryRecord) -> bool:
    """Whether what was retrieved is a response that has ended, whole."""
    return (
        record.finish_reason is not None
        and record.finish_reason not in _STILL_OPEN
        and _response_id(record) is not None
    )


async def complete(store: Store, digests: Digests, found: Assembled) -> bool:
    """Write what was retrieved into the row of its call; False: there is no such row, or not yet.

    Raises StoreUnavailable, StoreMisconfigured, or RowRejected.
    """
    row = await begun(store, _response_id(found.record) or "", found.record.provider or "")
    if row is None:
        return False
    record, beside = completed(row, found, digests)
    values = dict(zip(COLUMNS, storable(record), strict=True))
    changed = {name: values[name] for name in (*_ANSWER, *_USAGE, "capture")}
    return await store.amend(record.id, changed, beside, only_if=IS_OPEN)


def completed(row: Row, found: Assembled, digests: Digests) -> tuple[TelemetryRecord, Beside]:
    """The row with the answer that was retrieved. It keeps no more than it was to keep."""
    old = TelemetryRecord(**{name: _plain(row[name]) for name in COLUMNS})
    is_bare = (old.capture or {}).get("content") == "metadata"
    answer = metadata_only(found.record) if is_bare else found.record
    names = _ANSWER + (_USAGE if answer.usage_source == "provider" else ())
    news: dict[str, Any] = {name: getattr(answer, name) for name in names}
    record = replace(old, **news, capture=_capture(old, answer))
    # Without content the row's own links, taken when it had some, are better than any made now.
    link = None if is_bare else link_of(record, digests)
    return record, Beside(() if is_bare else found.beside.blobs, None, link)


def _capture(row: TelemetryRecord, answer: TelemetryRecord) -> dict[str, Json]:
    old, new = row.capture or {}, answer.capture or {}
    redactions = Counter(_counts(old)) + Counter(_counts(new))
    return {
        **old,
        **{name: new[name] for name in _CAPTURED if name in new},
        **({"redactions": dict(redactions)} if redactions else {}),
        "completed_by": str(answer.id),
    }


def _plain(value: Any) -> Any:
    """The driver's own kind of UUID is not taken by everything."""
    return UUID(int=value.int) if isinstance(value, UUID) else value


def _counts(capture: dict[str, Json]) -> dict[str, int]:
    found = capture.get("redactions")
    return {k: v for k, v in found.items() if isinstance(v, int)} if isinstance(found, dict) else {}


def _response_id(record: TelemetryRecord) -> str | None:
    found = (record.capture or {}).get("response_id")
    return found if isinstance(found, str) else None
