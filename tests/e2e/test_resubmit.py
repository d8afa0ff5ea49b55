"""What was set aside and is stored at last is quarantined no longer, and is counted once."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from uuid import UUID

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from proxy.enrich.digests import Digests
from proxy.errors import SpoolUnusable, StoreMisconfigured
from proxy.resubmit import Resubmitted, resubmit
from proxy.spool.resubmitted import ResubmittedCalls
from tests.e2e.pipeline import Pipeline, pipeline
from tests.e2e.provider import Provider
from tests.e2e.test_sockets import CREATE, KEY, provide

REFUSE = "ALTER TABLE agent_telemetry ADD CONSTRAINT own CHECK (user_message NOT LIKE 'bad%')"
ALLOW = "ALTER TABLE agent_telemetry DROP CONSTRAINT own"
COPIES = "SELECT id, reason FROM agent_raw ORDER BY created_at"


@pytest.fixture
async def local(tmp_path, dsn):
    async with Provider(0).serving() as upstream, pipeline(tmp_path, dsn, upstream) as found:
        yield found


async def call(stand: Pipeline, text: str) -> UUID:
    body = {"model": "scripted-1", "messages": [{"role": "user", "content": text}]}
    url = f"{stand.address}/openai/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        await answer.read()
        return UUID(answer.headers["x-agent-telemetry-id"])


async def capture(stand: Pipeline, *texts: str) -> list[UUID]:
    async with stand.serving():
        ids = [await call(stand, text) for text in texts]
    async with stand.recording():
        await stand.until_settled()
    return ids


async def again(stand: Pipeline) -> Resubmitted:
    return await resubmit(stand.config, stand.store, lambda: None, Digests(b"key"))


async def counted(stand: Pipeline) -> tuple[int, int, int, int]:
    sums = await stand.whole_sums()
    assert sums.captured == sums.stored + sums.waiting + sums.quarantined + sum(sums.lost.values())
    return sums.captured, sums.stored, sums.quarantined, sums.waiting


async def test_what_is_stored_at_last_is_quarantined_no_longer(stand):
    await stand.store.execute(REFUSE)
    await capture(stand, "bad one", "good", "bad two")
    assert await counted(stand) == (3, 1, 2, 0)
    assert (await again(stand)).stored == 0
    assert await counted(stand) == (3, 1, 2, 0)
    await stand.store.execute(ALLOW)
    for stored in (2, 0):
        assert (await again(stand)).stored == stored
        assert await counted(stand) == (3, 3, 0, 0)
    await capture(stand, "afterwards")
    assert await counted(stand) == (4, 4, 0, 0)


async def test_a_resubmit_that_ends_behind_its_note_counts_once(stand):
    """The copy cannot be deleted, so the call is in the list again."""
    await stand.store.execute(REFUSE)
    await capture(stand, "bad one", "bad two")
    await stand.store.execute(ALLOW)
    await stand.store.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN RAISE insufficient_privilege; END $$"
    )
    await stand.store.execute(
        "CREATE TRIGGER no BEFORE DELETE ON agent_raw FOR EACH ROW EXECUTE FUNCTION no()"
    )
    for _ in range(2):
        with pytest.raises(StoreMisconfigured):
            await again(stand)
        assert await counted(stand) == (2, 1, 1, 0)
    await stand.store.execute("DROP TRIGGER no ON agent_raw")
    assert (await again(stand)).stored == 2
    assert await counted(stand) == (2, 2, 0, 0)


async def test_a_call_that_cannot_be_noted_stays_in_the_list(local):
    await local.store.execute(REFUSE)
    (id,) = await capture(local, "bad one")
    await local.store.execute(ALLOW)
    note = local.config.spool_dir / "0" / "resubmitted"
    note.mkdir()
    with pytest.raises(SpoolUnusable, match="resubmit as the user"):
        await again(local)
    assert [row["id"] for row in await local.store.fetch(COPIES)] == [id]
    note.rmdir()
    assert (await again(local)).stored == 1
    assert await counted(local) == (1, 1, 0, 0)


async def test_a_call_of_another_machine_is_counted_there_alone(local, tmp_path, dsn):
    await local.store.execute(REFUSE)
    await capture(local, "bad one")
    await local.store.execute(ALLOW)
    async with pipeline(tmp_path / "other", dsn, "http://127.0.0.1:9") as other:
        assert (await again(other)).stored == 1
        assert await counted(other) == (0, 0, 0, 0)
    assert await counted(local) == (1, 0, 1, 0)


async def test_one_resubmit_at_a_time(local):
    await capture(local, "good")
    with (
        ResubmittedCalls(local.config.spool_dir),
        pytest.raises(SpoolUnusable, match="another resubmit"),
    ):
        await again(local)
    assert (await again(local)).stored == 0


async def test_a_copy_that_is_kept_anyway_is_one_of_a_stored_row(tmp_path, dsn):
    async with (
        Provider(0).serving() as upstream,
        pipeline(tmp_path, dsn, upstream, capture={"raw": "all"}) as stand,
    ):
        await stand.store.execute(REFUSE)
        (id,) = await capture(stand, "bad one")
        await stand.store.execute(ALLOW)
        assert (await again(stand)).stored == 1
        assert await stand.store.fetch(COPIES) == [{"id": id, "reason": "kept"}]
        assert await counted(stand) == (1, 1, 0, 0)


@asynccontextmanager
async def socket_stand(tmp_path, dsn, transport):
    async with serve(provide, "127.0.0.1", 0) as server:
        upstream = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with pipeline(tmp_path, dsn, upstream, **transport) as found:
            yield found


async def test_a_socket_is_stored_when_all_that_was_set_aside_of_it_is(tmp_path, dsn, transport):
    async with socket_stand(tmp_path, dsn, transport) as stand:
        await stand.store.execute(REFUSE)
        async with (
            stand.serving(),
            connect(
                stand.responses_url, additional_headers={"authorization": f"Bearer {KEY}"}
            ) as socket,
        ):
            for text in ("good", "bad one", "bad two"):
                await socket.send(json.dumps(CREATE | {"input": text}))
                while json.loads(await socket.recv())["type"] != "response.completed":
                    pass
        async with stand.recording():
            await stand.until_settled()
        assert await counted(stand) == (1, 0, 1, 0)
        await stand.store.execute(ALLOW)
        await stand.store.execute(REFUSE.replace("bad%", "bad two"))
        assert (await again(stand)).stored == 1
        assert await counted(stand) == (1, 0, 1, 0)
        await stand.store.execute(ALLOW)
        assert (await again(stand)).stored == 1
        assert await counted(stand) == (1, 1, 0, 0)
