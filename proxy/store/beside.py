"""Beside: what is stored together with rows, in their transaction: media, raw exchanges, links.

A blob is sent to the server only where it is not there yet. One that is there is locked against
deletion until the commit, so that nobody who prunes can take it away from under a new row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import orjson

from proxy.record import Beside, Blob, TelemetryRecord
from proxy.store.connection import Connection
from proxy.turn import Link

KEPT = "kept"  # the reason of a raw exchange whose row was stored

_KNOWN = "SELECT sha256 FROM agent_blobs WHERE sha256 = ANY($1) FOR KEY SHARE"
_BLOB = """
INSERT INTO agent_blobs (sha256, media_type, content) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
"""
_RAW = f"""
INSERT INTO agent_raw (id, created_at, reason, exchange) VALUES ($1, $2, '{KEPT}', $3)
ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, exchange = excluded.exchange
"""  # noqa: S608 - the reason is this program's own word

_LINK = """
INSERT INTO agent_links (call_id, created_at, conversation, facts, outputs)
SELECT call_id, created_at, conversation, facts::jsonb, outputs::jsonb
FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::text[])
    AS given (call_id, created_at, conversation, facts, outputs)
ON CONFLICT (call_id) DO UPDATE
SET facts = excluded.facts, outputs = excluded.outputs, is_pending = TRUE
"""


async def write_beside(
    connection: Connection,
    records: Sequence[TelemetryRecord],
    written: set[UUID],
    beside: Mapping[UUID, Beside],
) -> None:
    """Store what lies beside those of the records that were written just now."""
    wanted = written & beside.keys()
    found = [(record, beside[record.id]) for record in records if record.id in wanted]
    await write_blobs(connection, [blob for _, each in found for blob in each.blobs])
    await write_links(connection, [each.link for _, each in found if each.link])
    for record, each in found:
        if each.raw is not None:
            await connection.execute(_RAW, record.id, record.created_at, each.raw)


async def write_blobs(connection: Connection, blobs: Iterable[Blob]) -> None:
    """Store those blobs that are not there yet. To be called inside a transaction."""
    by_digest = {bytes.fromhex(blob.sha256): blob for blob in blobs}
    if not by_digest:
        return
    rows = await connection.fetch(_KNOWN, list(by_digest))
    missing = by_digest.keys() - {row["sha256"] for row in rows}
    for digest in sorted(missing):  # in one order everywhere, so that no two writers deadlock
        blob = by_digest[digest]
        await connection.execute(_BLOB, digest, blob.media_type, blob.content)


async def write_links(connection: Connection, links: Iterable[Link]) -> None:
    """Store the facts of calls beside their rows, to be placed."""
    rows = [
        (
            link.facts.id,
            link.facts.created_at,
            link.facts.conversation,
            orjson.dumps(link.facts.as_json()).decode(),
            orjson.dumps(link.outputs).decode() if link.outputs else None,
        )
        for link in links
    ]
    if rows:
        await connection.execute(_LINK, *map(list, zip(*rows, strict=True)))
