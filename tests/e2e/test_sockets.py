"""WebSockets with a real client: the same as without the gateway, and one row per response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from uuid import UUID, uuid5

import openai
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.e2e.pipeline import Pipeline, pipeline
from tests.e2e.stack import Stack, until
from tests.socket_scripts import Provider, encoded

KEY = "sk-test-0123456789abcdef0123"
# The SDK calls a function of the websockets library in a way that newer ones warn of.
OF_THE_SDK = pytest.mark.filterwarnings(
    r"ignore:connect\(\) must be used as a context manager:DeprecationWarning"
)
CREATE = {"type": "response.create", "model": "gpt-5", "input": "one"}


async def provide(socket: ServerConnection) -> None:
    """The scripted provider. An answer to `stall` stops in its middle, and the socket stays."""
    assert socket.request is not None
    provider = Provider(socket.request.path)
    for event in provider.greeting():
        await socket.send(json.dumps(event))
    async for raw in socket:
        message = json.loads(raw)
        events = provider.answers_to(message)
        for event in events[:3] if message.get("input") == "stall" else events:
            await socket.send(json.dumps(event))


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    async with serve(provide, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def stand(tmp_path, dsn, upstream, transport) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path, dsn, upstream, **transport) as found:
        yield found


@contextmanager
def sdk(base: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=base, max_retries=0) as client:
        yield client


def ask_responses(base: str, inputs: list[str], **options) -> list[dict]:
    """Several responses on one socket of the SDK: all events, as plain values."""
    found = []
    with (
        sdk(base) as client,
        client.responses.connect(websocket_connection_options=options) as connection,
    ):
        for text in inputs:
            connection.response.create(model="gpt-5", input=text)
            for event in connection:
                found.append(event.to_dict())
                if event.type in ("response.completed", "error"):
                    break
    return found


def ask_realtime(base: str) -> list[dict]:
    found = []
    with sdk(base) as client, client.realtime.connect(model="gpt-realtime") as connection:
        connection.session.update(session={"type": "realtime", "instructions": "Be brief"})
        item = {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "Hi"}],
        }
        connection.conversation.item.create(item=item)
        for _ in range(2):
            connection.response.create()
            for event in connection:
                found.append(event.to_dict())
                if event.type == "response.done":
                    break
    return found


async def told(socket: ClientConnection, kind: str) -> None:
    """Wait for an event of this kind."""
    async with asyncio.timeout(60):
        while json.loads(await socket.recv())["type"] != kind:
            pass


@OF_THE_SDK
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_responses_are_the_same_as_directly_and_each_is_a_row(stand, upstream, compression):
    inputs = ["one", "two", "long " * 30_000]
    options = {"compression": compression, "max_size": 2**24}
    async with stand.serving(), stand.recording():
        base = f"{stand.address}/openai/v1"
        through = await asyncio.to_thread(ask_responses, base, inputs, **options)
        direct = await asyncio.to_thread(ask_responses, f"{upstream}/v1", inputs, **options)
        assert through == direct
        rows = await stand.until_rows(3)
        await stand.until_settled()
    assert [row["user_message"] for row in rows] == inputs
    assert [row["response_text"] for row in rows] == [f"echo {text}" for text in inputs]
    for row in rows:
        assert (row["endpoint"], row["provider"], row["status"]) == ("responses", "openai", 200)
        assert (row["outcome"], row["finish_reason"]) == ("complete", "completed")
        assert (row["model_used"], row["prompt_tokens"], row["cached_tokens"]) == ("gpt-5-1", 12, 4)
        assert "problems" not in row["capture"]
    sums = stand.sums()
    assert (sums.captured, sums.stored, sums.waiting) == (1, 1, 0)  # the socket counts once


@OF_THE_SDK
async def test_realtime_is_the_same_as_directly_and_each_response_is_a_row(stand, upstream):
    async with stand.serving(), stand.recording():
        through = await asyncio.to_thread(ask_realtime, f"{stand.address}/openai/v1")
        assert through == await asyncio.to_thread(ask_realtime, f"{upstream}/v1")
        rows = await stand.until_rows(2)
    assert [row["response_text"] for row in rows] == ["spoken word"] * 2
    assert [row["system_prompt"] for row in rows] == ["Be brief"] * 2
    assert [row["user_message"] for row in rows] == ["Hi"] * 2
    assert rows[0]["tool_calls"] == [{"id": "c1", "name": "look", "arguments": {"at": 1}}]
    assert {row["endpoint"] for row in rows} == {"realtime"}


async def test_rows_come_while_the_socket_is_open_and_bear_its_id(stand):
    async with stand.serving(), stand.recording():
        async with connect(stand.responses_url) as socket:
            id = UUID(socket.response.headers["x-agent-telemetry-id"])
            await socket.send(encoded(CREATE).decode())
            (row,) = await stand.until_rows(1)
            assert row["id"] == uuid5(id, "1")
            assert row["parent_id"] == id
            assert row["capture"]["socket"] == str(id)
            assert stand.sums().waiting == 1
        await stand.until_settled()


async def test_a_recorder_that_is_stopped_anywhere_doubles_nothing(stand):
    async with (
        stand.serving(),
        connect(stand.responses_url) as socket,
    ):
        for number in range(1, 4):
            await socket.send(encoded(CREATE | {"input": str(number)}).decode())
            await told(socket, "response.completed")
            async with stand.recording():
                await stand.until_rows(number)
        await socket.close()
        async with stand.recording():
            await stand.until_settled()
    rows = await stand.rows()
    assert [row["user_message"] for row in rows] == ["1", "2", "3"]
    assert stand.sums().stored == 1


async def test_after_a_crash_ended_responses_have_rows_and_the_open_one_is_told(stand):
    async with stand.serving() as writer, stand.recording():
        async with connect(stand.responses_url) as socket:
            await socket.send(encoded(CREATE).decode())
            await stand.until_rows(1)
            await socket.send(encoded(CREATE | {"input": "stall"}).decode())
            await told(socket, "response.completed")
            await told(socket, "response.output_text.delta")
            writer.close()  # nothing more is written: as if the process had been killed here
            rows = await stand.until_rows(2)
        await stand.until_settled()
    assert [row["outcome"] for row in rows] == ["complete", "proxy_crashed"]
    assert (rows[1]["user_message"], rows[1]["response_text"]) == ("stall", "echo")


async def test_a_declined_upgrade_passes_unchanged(tmp_path, dsn):
    def decline(connection: ServerConnection, request: object):
        return connection.respond(405, "no sockets here\n")

    async with serve(provide, "127.0.0.1", 0, process_request=decline) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with pipeline(tmp_path, dsn, url) as stand, stand.serving(), stand.recording():
            beta = {"openai-beta": "responses_websockets=2026-02-06"}
            with pytest.raises(InvalidStatus) as declined:
                await connect(f"ws{stand.address[4:]}/openai/v1/responses", additional_headers=beta)
            assert stand.sums().captured == 0
    answer = declined.value.response
    assert (answer.status_code, answer.body) == (405, b"no sockets here\n")
    assert "x-agent-telemetry-id" not in answer.headers


async def test_an_error_of_the_provider_is_a_row_with_its_status(stand):
    async with stand.serving(), stand.recording(), connect(stand.responses_url) as socket:
        await socket.send(encoded(CREATE | {"model": "unknown"}).decode())
        (row,) = await stand.until_rows(1)
    assert (row["status"], row["outcome"], row["error"]) == (400, "upstream_error", "no such model")
    assert row["model_used"] == "unknown"


async def test_secrets_in_frames_do_not_reach_the_row(stand):
    secret = "ghp_" + "Ab3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6"
    key = {"Authorization": f"Bearer {KEY}"}
    async with (
        stand.serving(),
        stand.recording(),
        connect(stand.responses_url, additional_headers=key) as socket,
    ):
        message = CREATE | {"input": f"my keys are {secret} and {KEY}"}
        await socket.send(encoded(message).decode())
        (row,) = await stand.until_rows(1)
    shown = json.dumps(row, default=str)
    assert secret not in shown
    assert KEY not in shown
    assert row["user_message"].startswith("my keys are [REDACTED:")


async def test_the_whole_program_survives_a_kill_with_an_open_socket(tmp_path, upstream):
    async with Stack(tmp_path / "data", upstream) as stack:
        await stack.until_ready()
        async with connect(f"ws{stack.url.removeprefix('http')}/openai/v1/responses") as socket:
            for text in ("one", "stall"):
                await socket.send(encoded(CREATE | {"input": text}).decode())
            await told(socket, "response.completed")
            await told(socket, "response.output_text.delta")
            await stack.kill("gateway")
            with pytest.raises(ConnectionClosedError):
                await socket.recv()

        calls = "SELECT * FROM agent_telemetry WHERE record_type = 'llm_call' ORDER BY user_message"

        async def stored() -> bool:
            return len(await stack.fetch(calls)) == 2

        await until(stored, "both responses have rows")
        rows = await stack.fetch(calls)
    assert [row["outcome"] for row in rows] == ["complete", "proxy_crashed"]
    assert [row["response_text"] for row in rows] == ["echo one", "echo"]
