"""The official SDKs through the gateway and directly: equal results, for every fixture.

What an SDK makes of an odd answer, an exception included, is not the point; that it makes the same
of it is.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator

import anthropic
import openai
import pytest
from google import genai

from tests.e2e.replay import CASE, CASES, replaying
from tests.e2e.stack import Stack, until

KEY = "sk-test-0123456789abcdef0123"
TOOLS = [{"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}}]
MESSAGES = [{"role": "user", "content": "Hi"}]
ADDRESS = re.compile(r"127\.0\.0\.1:\d+|0x[0-9a-f]+")


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with replaying() as url:
        yield url


@pytest.fixture(scope="module")
def stack(upstream, tmp_path_factory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("sdks") / "data", upstream)
    asyncio.run(stack.start())
    asyncio.run(stack.until_ready())
    yield stack
    asyncio.run(stack.stop())


def cases(*endpoints: str) -> list:
    return [
        pytest.param(number, id=name)
        for number, (name, case) in enumerate(CASES)
        if case["endpoint"] in endpoints
    ]


def is_stream(number: int) -> bool:
    case = CASES[number][1]
    return bool(case["request"].get("stream") if isinstance(case["request"], dict) else False)


def outcome(ask: Callable[[], object]) -> object:
    """What an SDK returned, or the exception it raised, without addresses."""
    try:
        return ask()
    except Exception as error:  # compared, not judged
        return f"{type(error).__name__}: {ADDRESS.sub('…', str(error))}"


def same(ask: Callable[[str], object], direct: str, through: str) -> object:
    one, other = outcome(lambda: ask(direct)), outcome(lambda: ask(through))
    assert other == one
    return other


def named(number: int) -> dict[str, dict[str, str]]:
    return {"extra_headers": {CASE: str(number)}}


class Clients:
    """SDK clients are slow to make: one of a kind for each address."""

    def __init__(self) -> None:
        self._made: dict[tuple[type, str], object] = {}
        self.runner = asyncio.Runner()

    def get(self, kind: type, base: str):
        if (kind, base) not in self._made:
            options = {"base_url": base, "max_retries": 0}
            if kind is genai.Client:
                options = {"vertexai": False, "http_options": {"base_url": base}}
            self._made[kind, base] = kind(api_key=KEY, **options)
        return self._made[kind, base]

    def close(self) -> None:
        for (kind, _), client in self._made.items():
            if kind is openai.AsyncOpenAI:
                self.runner.run(client.close())
            else:
                client.close()
        self.runner.close()


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    clients = Clients()
    yield clients
    clients.close()


@pytest.mark.parametrize("number", cases("chat.completions"))
def test_openai_chat(number, upstream, stack, clients):
    def ask(base: str) -> object:
        create = clients.get(openai.OpenAI, base + "/v1").chat.completions.create
        if is_stream(number):
            with create(model="m", messages=MESSAGES, stream=True, **named(number)) as chunks:
                return [chunk.model_dump() for chunk in chunks]
        return create(model="m", messages=MESSAGES, **named(number)).model_dump()

    same(ask, upstream, f"{stack.url}/openai")


@pytest.mark.parametrize("number", cases("chat.completions", "responses"))
def test_openai_async(number, upstream, stack, clients):
    is_chat = CASES[number][1]["endpoint"] == "chat.completions"

    async def ask_async(base: str) -> object:
        client = clients.get(openai.AsyncOpenAI, base + "/v1")
        create = client.chat.completions.create if is_chat else client.responses.create
        said = {"messages": MESSAGES} if is_chat else {"input": "Hi"}
        answer = await create(model="m", stream=is_stream(number), **said, **named(number))
        if is_stream(number):
            async with answer:
                return [event.model_dump() async for event in answer]
        return answer.model_dump()

    same(lambda base: clients.runner.run(ask_async(base)), upstream, f"{stack.url}/openai")


@pytest.mark.parametrize("number", cases("responses"))
def test_openai_responses(number, upstream, stack, clients):
    def ask(base: str) -> object:
        create = clients.get(openai.OpenAI, base + "/v1").responses.create
        if is_stream(number):
            with create(model="m", input="Hi", stream=True, **named(number)) as events:
                return [event.model_dump() for event in events]
        return create(model="m", input="Hi", **named(number)).model_dump()

    same(ask, upstream, f"{stack.url}/openai")


@pytest.mark.parametrize("number", cases("messages"))
def test_anthropic(number, upstream, stack, clients):
    asked = {"model": "m", "max_tokens": 9, "messages": MESSAGES, "tools": TOOLS} | named(number)

    def ask(base: str) -> object:
        client = clients.get(anthropic.Anthropic, base)
        if not is_stream(number):
            return client.messages.create(**asked).model_dump()
        with client.messages.stream(**asked) as stream:
            seen = [event.model_dump() for event in stream]
            return seen, stream.get_final_message().model_dump()

    same(ask, upstream, f"{stack.url}/anthropic")


@pytest.mark.parametrize("number", cases("generateContent", "streamGenerateContent"))
def test_google(number, upstream, stack, clients):
    is_streaming = CASES[number][1]["endpoint"] == "streamGenerateContent"
    headers = {"http_options": {"headers": {CASE: str(number)}}}
    asked = {"model": "m", "contents": "Hi", "config": headers}

    def ask(base: str) -> object:
        models = clients.get(genai.Client, base).models
        if is_streaming:
            return [without_head(chunk) for chunk in models.generate_content_stream(**asked)]
        return without_head(models.generate_content(**asked))

    same(ask, upstream, f"{stack.url}/gemini")


def without_head(answer) -> dict:
    """The answer without its HTTP head, which holds the id that the gateway adds."""
    return answer.model_dump(exclude={"sdk_http_response"})


def test_what_the_sdk_read_stands_in_the_row(upstream, stack, clients):
    number = next(n for n, (name, _) in enumerate(CASES) if name == "openai_chat: stream")
    client = clients.get(openai.OpenAI, f"{stack.url}/p/sdk/openai/v1")
    asked = {"model": "m", "messages": MESSAGES, "stream": True} | named(number)
    with client.chat.completions.with_streaming_response.create(**asked) as answer:
        row_id = answer.headers["x-agent-telemetry-id"]
        lines = [json.loads(x[6:]) for x in answer.iter_lines() if x.startswith("data: {")]
    text = "".join(c["delta"].get("content") or "" for x in lines for c in x["choices"])
    query = "SELECT * FROM agent_telemetry WHERE id::text = $1"

    async def row():
        await until(lambda: stored(stack, query, row_id), "the row is stored")
        return (await stack.fetch(query, row_id))[0]

    found = asyncio.run(row())
    assert (found["project_id"], found["response_text"]) == ("sdk", text)
    assert json.loads(found["chat_history"]) == MESSAGES
    assert found["client"].startswith("OpenAI/Python")
    assert KEY not in str(dict(found))


async def stored(stack: Stack, query: str, row_id: str) -> bool:
    return bool(await stack.fetch(query, row_id))
