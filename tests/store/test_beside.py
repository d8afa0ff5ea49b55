"""Media and raw exchanges are stored with the rows they belong to, or not at all."""

import asyncio
import hashlib
from dataclasses import replace

from proxy.record import Beside, Blob
from proxy.store.postgres import Store
from tests.store.rows import record


def blob(content, kind="image/png"):
    return Blob(hashlib.sha256(content).hexdigest(), kind, content)


async def blobs(store):
    rows = await store.fetch("SELECT * FROM agent_blobs ORDER BY content")
    return [(row["sha256"].hex(), row["media_type"], row["content"]) for row in rows]


async def test_a_blob_is_stored_once_however_many_rows_refer_to_it(store):
    rows, one, other = [record(), record(), record()], blob(b"one"), blob(b"two", None)
    beside = {rows[0].id: Beside((one, other)), rows[1].id: Beside((one,))}
    await store.write(rows, beside)
    await store.write([again := record()], {again.id: Beside((one,))})
    assert await blobs(store) == [
        (one.sha256, "image/png", b"one"),
        (other.sha256, None, b"two"),
    ]


async def test_writers_of_the_same_blobs_do_not_wait_for_each_other_for_ever(store, dsn):
    async with Store(dsn) as second:
        media = [blob(bytes([n])) for n in range(20)]

        async def write(target, order):
            for _ in range(5):
                row = record()
                await target.write([row], {row.id: Beside(tuple(order))})

        await asyncio.gather(write(store, media), write(second, media[::-1]))
    assert len(await blobs(store)) == 20


async def test_what_lies_beside_a_refused_row_is_not_stored(store):
    await store.fetch(
        "ALTER TABLE agent_telemetry ADD CHECK (response_text IS DISTINCT FROM 'refused')"
    )
    bad, good = record(response_text="refused"), record()
    beside = {bad.id: Beside((blob(b"bad"),), b"raw"), good.id: Beside((blob(b"good"),), b"raw")}
    result = await store.write([bad, good], beside)
    assert set(result.rejected) == {bad.id}
    assert [content for *_, content in await blobs(store)] == [b"good"]
    assert [row["id"] for row in await store.fetch("SELECT id FROM agent_raw")] == [good.id]


async def test_a_raw_exchange_is_replaced_with_its_row_only(store):
    row = record(outcome="proxy_crashed")
    await store.write([row], {row.id: Beside(raw=b"half")})
    await store.write([replace(row, outcome="complete")], {row.id: Beside(raw=b"whole")})
    await store.write([row], {row.id: Beside(raw=b"half")})
    (found,) = await store.fetch("SELECT * FROM agent_raw")
    assert (found["id"], found["reason"], found["exchange"]) == (row.id, "kept", b"whole")
