"""The database conversation cut at every message, and poison in every position of a batch."""

import pytest

from proxy.errors import StoreUnavailable
from proxy.store import postgres
from proxy.store.jsonb import BYTES_MAX, KEPT_BYTES_MAX
from proxy.store.postgres import Store
from tests.faults.poison import POISON
from tests.faults.scale import IS_FULL, left, note
from tests.faults.wire import Cut, MessageWire
from tests.store.rows import record

SUITE = "database"
ROWS = 3
ATTEMPTS = 50
CUTS = ("before", "middle", "after", "reset")


async def messages_of_two_writes(dsn: str) -> dict[str, list[str]]:
    async with MessageWire(dsn) as wire:
        async with Store(wire.dsn) as store:
            await store.write([record() for _ in range(ROWS)])
            await store.write([record() for _ in range(ROWS)])
        return wire.messages


async def count(dsn: str) -> tuple[int, int]:
    async with Store(dsn) as store:
        (row,) = await store.fetch(
            "SELECT count(*) AS rows, count(DISTINCT id) AS ids FROM agent_telemetry"
        )
    return row["rows"], row["ids"]


async def test_a_cut_at_any_message_stores_each_row_once(dsn):
    if not left(SUITE, "cuts", short=1, full=300):
        pytest.skip("done on this commit")
    messages = await messages_of_two_writes(dsn)
    assert {"C", "Z", "G"} <= set(messages["server"])  # CommandComplete, ready, COPY begun
    cuts = [
        Cut(side, number, how)
        for side in ("client", "server")
        for number in range(len(messages[side]))
        for how in CUTS
    ]
    assert len(cuts) >= 300
    expected, cut_in_fact = (await count(dsn))[0], 0
    for cut in cuts if IS_FULL else cuts[3::9]:
        cut_in_fact += await _written_over(dsn, cut)
        expected += 2 * ROWS
        assert await count(dsn) == (expected, expected), cut
    assert cut_in_fact >= (300 if IS_FULL else 20)
    note(SUITE, cuts=cut_in_fact)


async def test_a_stall_at_any_message_is_given_up_and_written_once(dsn, monkeypatch):
    if not left(SUITE, "stalls", short=1, full=1):
        pytest.skip("done on this commit")
    messages = await messages_of_two_writes(dsn)
    stalls = [Cut(side, n, "stall") for side in messages for n in range(len(messages[side]))]
    expected = (await count(dsn))[0]
    for stall in stalls if IS_FULL else stalls[5::25]:
        with monkeypatch.context() as patch:
            patch.setattr(postgres, "WRITE_TIMEOUT_S", 0.3)
            await _written_over(dsn, stall)
        expected += 2 * ROWS
        assert await count(dsn) == (expected, expected), stall
    note(SUITE, stalls=len(stalls))


async def _written_over(dsn: str, cut: Cut) -> bool:
    """Write two batches as a recorder does: again until they are taken."""
    async with MessageWire(dsn, cut) as wire:
        async with Store(wire.dsn) as store:
            for _ in range(2):
                batch = [record() for _ in range(ROWS)]
                for _ in range(ATTEMPTS):
                    try:
                        await store.write(batch)
                        break
                    except StoreUnavailable:
                        assert wire.has_cut or cut.how == "stall", "a short limit may be missed"
                        if cut.how == "stall":
                            postgres.WRITE_TIMEOUT_S *= 2  # a busy machine may need more
                else:
                    pytest.fail(f"not written at attempt {ATTEMPTS}: {cut}")
        return wire.has_cut


@pytest.mark.parametrize("position", ["first", "middle", "last"])
async def test_poison_costs_no_other_row(dsn, position):
    assert len(POISON) >= 500
    values = POISON if IS_FULL else POISON[:: 1 + len(POISON) // 60]
    if not left(SUITE, f"poison_{position}", short=1, full=1):
        pytest.skip("done on this commit")
    async with Store(dsn) as store:
        rows = 0
        for poison in values:
            batch = [record() for _ in range(4)]
            at = {"first": 0, "middle": 2, "last": 4}[position]
            batch.insert(at, record(**poison))
            result = await store.write(batch)
            assert result.written == len(batch), poison
            rows += len(batch)
        assert await count(dsn) == (rows, rows)
    note(SUITE, **{f"poison_{position}": len(values)})


@pytest.mark.parametrize("column", ["response_text", "chat_history", "usage", "error"])
async def test_a_value_beyond_every_limit_is_cut_and_costs_no_other_row(dsn, column):
    """Of 300 MB in full; the short form is just beyond what a column keeps."""
    if not left(SUITE, f"huge_{column}", short=1, full=1):
        pytest.skip("done on this commit")
    text = "x" * (300 * 2**20 if IS_FULL else BYTES_MAX + 1)
    value = {"chat_history": [{"role": "user", "content": text}], "usage": {"n": text}}
    huge = record(**{column: value.get(column, text)})
    async with Store(dsn) as store:
        result = await store.write([record(), huge, record()])
        assert (result.written, dict(result.rejected)) == (3, {})
        (row,) = await store.fetch(
            f"SELECT octet_length({column}::text) AS bytes, capture FROM agent_telemetry"
            " WHERE id = $1",
            huge.id,
        )
    assert row["capture"]["sanitized"] == {column: ["size"]}
    assert KEPT_BYTES_MAX <= row["bytes"] <= BYTES_MAX + 100
    note(SUITE, **{f"huge_{column}": 1})
