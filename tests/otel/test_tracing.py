"""Spans from a real database to a collector's stand-in: what belongs where, and what goes wrong."""

import asyncio
import json
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from proxy.config import Otel
from proxy.linker import Changes, Linker
from proxy.metrics import TracingMetrics
from proxy.otel.sender import Sender
from proxy.store.links import LinkStore
from proxy.store.postgres import Store
from proxy.tracing import QUEUE_MAX, News, Tracing
from tests.database import connected
from tests.e2e.stack import until
from tests.otel.receiver import receiving
from tests.turns.scripts import LATER, Talk
from tests.turns.test_linker import CONFIG, write

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Line:
    """Rows, linker and tracing on one database."""

    def __init__(self, dsn, receiver, **settings):
        self.store, self.links = Store(dsn), LinkStore(dsn)
        self.metrics = TracingMetrics()
        self.is_closed = False
        sender = Sender(Otel(endpoint=receiver.url, timeout_s=0.2), "1")
        self.tracing = Tracing(
            Store(dsn), sender, self.metrics, with_content=settings.get("with_content", False)
        )
        self.linker = Linker(CONFIG, self.links, None)
        self.receiver = receiver
        self.work = asyncio.create_task(self.tracing.run())

    async def until_received(self, count):
        async def arrived():
            return len(self.receiver.spans) >= count

        await until(arrived, f"{count} spans arrive")
        assert len(self.receiver.spans) == count

    async def record(self, *talks):
        """Store and link what was said; returns what the linker did."""
        await write(self.store, [row for talk in talks for row in talk.records])
        changes = await self.linker.settle(LATER)
        self.tracing.hear(changes)
        return changes

    async def close(self):
        """Send what waits, and end; a second time changes nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        self.work.cancel()
        await asyncio.wait({self.work})
        await self.tracing.close()
        await self.store.close()
        await self.links.close()

    def counted(self, counter, *labels):
        return (counter.labels(*labels) if labels else counter)._value.get()


@asynccontextmanager
async def line(dsn, **settings):
    async with receiving() as receiver:
        found = Line(dsn, receiver, **settings)
        try:
            yield found, receiver
        finally:
            await found.close()


def weather(session="s", **columns):
    talk = Talk(session).user("weather?").call(None, [("look", {"city": "Oslo"})], **columns)
    return talk.results("sunny").call("It is sunny.", **columns)


async def test_a_sub_agent_stands_inside_the_turn_that_called_it(dsn):
    main = Talk("s").user("go").call("hm", [("agent", {"prompt": "count all the words"})])
    child = Talk("s", at=main.at).user("count all the words").call("hm", [("read", {})])
    child.results("ok").call("12 words")
    async with line(dsn) as (found, receiver):
        await found.record(main.wait(9).results("12 words").call("there are 12"), child)
        await found.close()
        inner, outer = sorted(receiver.named("invoke_agent"), key=lambda span: not span.parent)[:2]
        assert outer.parent == ""
        assert inner.parent == outer.span
        assert inner.trace == outer.trace
        assert {s.parent for s in receiver.named("chat")} == {inner.span, outer.span}


async def test_a_call_outside_of_turns_has_a_trace_of_its_own(dsn):
    title = Talk("s").user("Name this").call("Going", request_params={}, capture={})
    async with line(dsn) as (found, receiver):
        await found.record(weather("s"), title.wait(1))
        await found.close()
        turn_trace = receiver.named("invoke_agent")[0].trace
        (side,) = [span for span in receiver.named("chat") if span.trace != turn_trace]
        id = title.records[0].id
        assert (side.trace, side.span, side.parent) == (id.hex, id.hex[16:], "")


async def test_what_is_sent_twice_is_the_same_spans(dsn):
    async with line(dsn) as (found, receiver):
        changes = await found.record(weather())
        await found.until_received(4)
        found.tracing.hear(Changes(turns=changes.turns))
        await found.until_received(8)
        assert len({(span.trace, span.span, span.parent) for span in receiver.spans}) == 4


async def test_a_turn_that_goes_on_is_sent_again_and_measured_once(dsn):
    talk = Talk("s").user("go").call("hm", [("read", {})])
    async with line(dsn) as (found, receiver):
        await found.record(talk)
        await found.until_received(2)
        talk.wait(4).results("ok").call("done")
        await found.record(talk)
        await found.close()
        turns = receiver.named("invoke_agent")
        assert [t.attributes["agent_telemetry.turn.stop_reason"] for t in turns] == [
            "abandoned",
            "completed",
        ]
        assert [turn.is_error for turn in turns] == [True, False]
        assert len({turn.span for turn in turns}) == 1
        assert [point.count for point in receiver.metrics["gen_ai.invoke_agent.duration"]] == [1]
        calls = receiver.metrics["gen_ai.client.operation.duration"]
        assert sum(point.count for point in calls) == 2


async def test_an_agent_that_says_its_name_is_named(dsn):
    async with line(dsn) as (found, receiver):
        await found.record(weather("s"), weather("t", labels={"agent": "support", "team": "blue"}))
        await found.close()
        assert {s.name for s in receiver.named("invoke")} == {
            "invoke_agent",
            "invoke_agent support",
        }
        (named,) = receiver.named("invoke_agent support")
        assert named.attributes["gen_ai.agent.name"] == "support"
        assert named.attributes["agent_telemetry.label.team"] == "blue"


async def test_errors_are_marked(dsn):
    talk = Talk("s").user("go").call(None, outcome="upstream_error", status=529, error="busy")
    talk.call("hm", [("read", {})]).results("Error: no such file").call("I cannot.")
    async with line(dsn) as (found, receiver):
        await found.record(talk)
        await found.close()
        first, *others = sorted(receiver.named("chat"), key=lambda span: span.started_ns)
        assert first.is_error
        assert first.attributes["error.type"] == "529"
        assert not any(span.is_error for span in others)
        (tool,) = receiver.named("execute_tool")
        assert tool.is_error


async def test_content_is_sent_where_it_is_asked_for(dsn):
    async with line(dsn, with_content=True) as (found, receiver):
        await found.record(weather(system_prompt="Be brief."))
        await found.close()
        first, second = sorted(receiver.named("chat"), key=lambda span: span.started_ns)
        assert json.loads(first.attributes["gen_ai.system_instructions"]) == [
            {"type": "text", "content": "Be brief."}
        ]
        asked = {"role": "user", "parts": [{"type": "text", "content": "weather?"}]}
        assert json.loads(first.attributes["gen_ai.input.messages"]) == [asked]
        (called,) = json.loads(first.attributes["gen_ai.output.messages"])
        (part,) = called["parts"]
        assert (part["type"], part["arguments"]) == ("tool_call", {"city": "Oslo"})
        result = json.loads(second.attributes["gen_ai.input.messages"])[2]["parts"][0]
        assert (result["type"], result["response"]) == ("tool_call_response", "sunny")
        (tool,) = receiver.named("execute_tool")
        assert tool.attributes["gen_ai.tool.call.arguments"] == '{"city":"Oslo"}'
        assert tool.attributes["gen_ai.tool.call.result"] == "sunny"
        (turn,) = receiver.named("invoke_agent")
        assert "It is sunny." in turn.attributes["gen_ai.output.messages"]


@pytest.mark.parametrize(
    ("traceparent", "spans", "trace"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", 4, TRACE),
        (f"00-{TRACE}-00f067aa0ba902b7-00", 0, None),  # its agent does not sample it
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", 4, None),
        ("nonsense", 4, None),
        (None, 4, None),
    ],
)
async def test_the_agents_own_trace_is_kept_to(dsn, traceparent, spans, trace):
    async with line(dsn) as (found, receiver):
        changes = await found.record(weather(capture={"traceparent": traceparent}))
        await found.close()
        assert len(receiver.spans) == spans
        turn = changes.turns[0][1].turn_id
        assert {span.trace for span in receiver.spans} <= {trace or turn.hex}


async def test_what_the_endpoint_does_not_take_is_counted(dsn):
    async with line(dsn) as (found, receiver):
        receiver.status = 400
        await found.record(weather())
        await found.close()
        assert found.counted(found.metrics.spans, "failed") == 4
        assert found.counted(found.metrics.spans, "sent") == 0


async def test_a_full_queue_drops_and_counts(dsn):
    async with line(dsn) as (found, _):
        (record,) = Talk("s").user("go").call("ok").records
        found.tracing.tell(News(record.id, is_turn=False) for _ in range(QUEUE_MAX + 3))
        assert found.counted(found.metrics.dropped) == 3


async def test_a_database_that_is_away_is_waited_for(dsn, postgres, caplog):
    name = dsn.partition("@/")[2].partition("?")[0]
    async with line(dsn) as (found, _), connected(postgres) as elsewhere:
        await elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        found.tracing.tell([News(UUID(int=1), is_turn=False)])

        async def waits():
            return "spans wait" in caplog.text

        await until(waits, "it is said")
        await elsewhere.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await found.record(weather())
        await found.until_received(4)
