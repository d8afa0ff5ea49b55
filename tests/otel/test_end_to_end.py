"""One turn of an agent, through the whole program, arrives at a collector."""

import json

import openai
import pytest
from aiohttp import web
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from tests.e2e.stack import Stack, until
from tests.otel.receiver import receiving
from tests.serving import serving

KNOWN = {value for name, value in vars(names).items() if name.startswith("GEN_AI_")}
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


async def _answer(request: web.Request) -> web.Response:
    """Calls the tool once, then says what it gave back."""
    body = await request.json()
    last = body["messages"][-1]
    message = {"role": "assistant", "content": f"It is {last['content']}."}
    if last["role"] == "user":
        function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
        calls = [{"id": "call_1", "type": "function", "function": function}]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
    reason = "tool_calls" if last["role"] == "user" else "stop"
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    choice = {"index": 0, "message": message, "finish_reason": reason}
    answer = {"id": "chatcmpl-1", "model": "gpt-4o-mini-2024-07-18", "choices": [choice]}
    return web.json_response(answer | {"object": "chat.completion", "usage": usage})


@pytest.fixture
async def provider():
    app = web.Application()
    app.router.add_post("/v1/chat/completions", _answer)
    async with serving(app) as url:
        yield url


async def _turn(url: str, headers: dict[str, str]) -> None:
    """An agent that runs its tool itself."""
    async with openai.AsyncOpenAI(base_url=f"{url}/openai/v1", api_key="key", max_retries=0) as ai:
        messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
        for _ in range(2):
            answer = await ai.chat.completions.create(
                model="gpt-4o-mini",
                messages=messages,
                tools=[TOOL],
                temperature=0.2,
                extra_headers=headers,
            )
            said = answer.choices[0].message
            messages.append(said.model_dump(exclude_none=True))
            for call in said.tool_calls or ():
                result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
                messages.append(result)


async def test_spans_of_a_turn_arrive_with_the_conventions_names(tmp_path, dsn, provider):
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-telemetry-session": "thread-42"}
    async with receiving() as collector:
        settings = {
            "STORE__DSN": dsn,
            "OTEL__ENDPOINT": collector.url,
            "OTEL__HEADERS": "authorization=Bearer%20sesame",
        }
        async with Stack(tmp_path / "data", provider, **settings) as stack:
            await stack.until_ready()
            await _turn(stack.url, headers)

            async def arrived() -> bool:
                return len(collector.spans) >= 4

            await until(arrived, "the spans of a turn arrive")
            rows = await stack.fetch(
                "SELECT id, turn_id, capture FROM agent_telemetry "
                "WHERE record_type = 'llm_call' ORDER BY created_at"
            )
        (turn,), chats, (tool,) = map(collector.named, ("invoke_agent", "chat", "execute_tool"))
        assert {span.trace for span in collector.spans} == {TRACE}
        assert turn.parent == SPAN
        assert {span.parent for span in (*chats, tool)} == {turn.span}
        assert [span.span for span in chats] == [row["id"].hex[16:] for row in rows]
        assert json.loads(rows[0]["capture"])["traceparent"] == headers["traceparent"]
        _assert_attributes(turn, chats, tool)
        assert collector.headers["Authorization"] == "Bearer sesame"
        assert collector.resource["service.name"] == "agent-telemetry"
        _assert_metrics(collector.metrics)


def _assert_attributes(turn, chats, tool):
    assert [span.name for span in chats] == ["chat gpt-4o-mini"] * 2
    assert [span.kind for span in (turn, *chats, tool)] == [1, 3, 3, 1]  # INTERNAL, CLIENT
    for span in (turn, *chats, tool):
        given = {name for name in span.attributes if name.startswith("gen_ai.")}
        assert given <= KNOWN, given - KNOWN
        assert span.attributes[names.GEN_AI_CONVERSATION_ID] == "thread-42"
        assert not span.is_error
        assert span.started_ns <= span.ended_ns  # an answer within a millisecond takes none
        assert "sunny" not in str(span.attributes)
        assert "Oslo" not in str(span.attributes)
    assert turn.attributes[names.GEN_AI_OPERATION_NAME] == "invoke_agent"
    assert turn.attributes[names.GEN_AI_USAGE_INPUT_TOKENS] == 22
    assert turn.attributes["agent_telemetry.turn.stop_reason"] == "completed"
    wanted = {
        names.GEN_AI_OPERATION_NAME: "chat",
        names.GEN_AI_PROVIDER_NAME: "openai",
        names.GEN_AI_REQUEST_MODEL: "gpt-4o-mini",
        names.GEN_AI_RESPONSE_MODEL: "gpt-4o-mini-2024-07-18",
        names.GEN_AI_REQUEST_TEMPERATURE: 0.2,
        names.GEN_AI_RESPONSE_ID: "chatcmpl-1",
        names.GEN_AI_RESPONSE_FINISH_REASONS: ["tool_calls"],
        names.GEN_AI_USAGE_INPUT_TOKENS: 11,
        names.GEN_AI_USAGE_OUTPUT_TOKENS: 7,
        names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: 4,
    }
    assert {name: chats[0].attributes[name] for name in wanted} == wanted
    assert tool.name == "execute_tool weather"
    assert tool.attributes[names.GEN_AI_TOOL_NAME] == "weather"
    assert tool.attributes[names.GEN_AI_TOOL_CALL_ID] == "call_1"
    assert chats[0].ended_ns <= tool.started_ns <= tool.ended_ns <= chats[1].started_ns + 1_000_000


def _assert_metrics(metrics):
    """Sent when the recorder stops, at the latest."""
    counts = {name: sum(point.count for point in points) for name, points in metrics.items()}
    assert counts == {
        gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION: 2,
        gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE: 4,
        "gen_ai.invoke_agent.duration": 1,
        "gen_ai.invoke_agent.inference_calls": 1,
        "gen_ai.invoke_agent.tool_calls": 1,
        "gen_ai.execute_tool.duration": 1,
    }
