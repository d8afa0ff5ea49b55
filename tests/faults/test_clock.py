"""The wall clock jumps: a day on or back, before 1970, to the end of time. Each call has a row."""

import time

from proxy.assemble import Assembler
from proxy.environment import load
from proxy.store.postgres import Store
from tests.fakes import answering, connect, post, whole
from tests.wire.gateways import CHAT, stand

DAY_NS = 86_400 * 10**9
NOW_NS = 1_790_000_000 * 10**9
INSTANTS_NS = (
    *(NOW_NS, NOW_NS + DAY_NS, NOW_NS - DAY_NS, NOW_NS, NOW_NS, NOW_NS + 3600 * 10**9),
    *(0, -1, -DAY_NS, 2**63 - 1),
)
BODY = b'{"model":"m","messages":[{"role":"user","content":"what time is it?"}]}'
ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"late"}}]}'


async def test_a_clock_that_jumps_costs_no_row_and_no_time(dsn, tmp_path, monkeypatch):
    instants = iter(INSTANTS_NS)
    async with stand(answering(*[whole(ANSWER)] * len(INSTANTS_NS)), {"dialect": "openai"}) as s:
        monkeypatch.setattr(time, "time_ns", lambda: next(instants))
        for _ in INSTANTS_NS:
            async with connect(s.address) as agent:
                await agent.send(post(CHAT, BODY))
                assert (await agent.message()).body == ANSWER
        await s.sink.until_ended(len(INSTANTS_NS))
        monkeypatch.undo()
        assert s.gateway.stats.tap_faults == 0
    found = s.sink.ended
    assert [exchange.start.at_ns for exchange in found] == list(INSTANTS_NS)
    assert all(0 <= exchange.end.at_us < 60_000_000 for exchange in found)
    assembler = Assembler(load(None, {"AGENT_TELEMETRY__DATA_DIR": str(tmp_path)}))
    records = [assembler.assembled(exchange).record for exchange in found]
    async with Store(dsn) as store:
        result = await store.write(records)
        assert result.written == len(INSTANTS_NS)
        rows = await store.fetch(
            "SELECT created_at, duration_ms, response_text FROM agent_telemetry"
        )
        assert sorted(row["created_at"] for row in rows) == sorted(r.created_at for r in records)
        assert all(0 <= row["duration_ms"] < 60_000 for row in rows)
        assert {row["response_text"] for row in rows} == {"late"}
