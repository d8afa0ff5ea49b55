"""No secret that went through the program is found in anything it wrote or printed."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from proxy.captured import unpacked
from tests.e2e import canary_sockets
from tests.e2e.canaries import Call, call
from tests.e2e.canary_sockets import socket
from tests.e2e.stack import Stack, free_port, until
from tests.fakes import Peer, Upstream, chunked

CALLS = 75  # 14 canaries each
SOCKETS = 24  # 14 each


@asynccontextmanager
async def answering(calls: list[Call]) -> AsyncIterator[str]:
    """A provider that gives each call the answer it shall have."""

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.message()
            planned = calls[int(request.get(b"x-call") or 0)]
            head = b"HTTP/1.1 %d Planned\r\nTransfer-Encoding: chunked\r\n\r\n" % planned.status
            await peer.send(head, chunked(planned.answer))

    upstream = Upstream(script)
    async with upstream.serving():
        yield f"http://127.0.0.1:{upstream.port}"


async def make(stack: Stack, calls: list[Call]) -> None:
    """Every call through the gateway; each answer arrives as the provider sent it."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        for planned in calls:
            url, headers = f"{stack.url}{planned.path}", planned.headers
            async with session.post(url, data=planned.body, headers=headers) as answer:
                assert answer.status == planned.status
                assert await answer.read() == b"".join(planned.answer)


def found_in(text: str | bytes, canaries: Iterable[str]) -> list[str]:
    """Canaries, or the greater part of one, that stand in the text."""
    data = text.encode() if isinstance(text, str) else text
    longest = (max(canary.split("\n"), key=len) for canary in canaries)
    return [canary for canary in longest if canary[:24].encode() in data]


def files_of(directory: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def tables(stack: Stack) -> str:
    """Everything in the database but the raw exchanges."""
    names = await stack.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows = []
    for name in {row["tablename"] for row in names} - {"agent_raw"}:
        rows += await stack.fetch(f"SELECT t::text AS row FROM {name} AS t")
    return "\n".join(row["row"] for row in rows)


async def test_a_thousand_canaries_are_found_nowhere(tmp_path, dsn):
    calls = [call(number) for number in range(CALLS)]
    sockets = [socket(number) for number in range(SOCKETS)]
    in_head = [canary for each in (*calls, *sockets) for canary in each.in_head]
    everything = in_head + [canary for each in calls for canary in each.in_bodies]
    in_frames = {canary for each in sockets for canary in each.in_frames}
    assert len(set(everything)) >= 1000
    assert len(in_frames) >= 250
    everything += in_frames
    settings = {"STORE__DSN": dsn, "LOG__CONTENT": "true", "CAPTURE__RAW": "all"}
    data_dir, rows = tmp_path / "data", CALLS + sum(each.rows for each in sockets)
    async with answering(calls) as upstream, canary_sockets.answering(sockets) as live:
        settings["UPSTREAMS__LIVE__URL"] = live
        async with Stack(data_dir, upstream, role="gateway", **settings) as gateway:
            await make(gateway, calls)
            await canary_sockets.talk(gateway.url, sockets)
        spool = files_of(data_dir)
        assert b"canary-7" in spool  # there is something to look through
        assert found_in(spool, in_head) == []
        async with Stack(data_dir, upstream, **settings) as stack:
            await until(lambda: stored(stack, rows), "every call has its row")
            outputs = {"table": await tables(stack), "metrics": await metrics(stack)}
            for command in ("tail -n 2000", "tail -n 2000 --json", "spool status", "check-config"):
                done = await asyncio.to_thread(stack.command, *command.split())
                assert done.returncode == 0, done.stderr
                outputs[command] = done.stdout + done.stderr
            outputs["decode"] = await decoded(stack, tmp_path)
            outputs["pages"] = await pages(stack)
            assert await redacted_answers(stack) == {"realtime": 12, "responses": 12}
    outputs["log"] = stack.log_text() + gateway.log_text()
    for name, text in outputs.items():
        assert found_in(text, everything) == [], name
    assert outputs["table"].count("[REDACTED:") > 500
    assert "canary-7" in outputs["log"]


async def stored(stack: Stack, number: int) -> bool:
    found = await stack.fetch("SELECT to_regclass('agent_telemetry') IS NOT NULL AS is_there")
    if not found[0]["is_there"]:
        return False
    query = "SELECT count(*) AS rows FROM agent_telemetry WHERE record_type = 'llm_call'"
    return (await stack.fetch(query))[0]["rows"] == number


async def redacted_answers(stack: Stack) -> dict[str, int]:
    """Whole answers of sockets whose text is there but for its secrets, by endpoint."""
    found = await stack.fetch(
        "SELECT endpoint, count(*) AS rows FROM agent_telemetry"
        " WHERE parent_id IS NOT NULL AND outcome = 'complete' AND response_text"
        " LIKE 'it is [REDACTED:%], [REDACTED:credential] and [REDACTED:credential]' GROUP BY 1"
    )
    return {row["endpoint"]: row["rows"] for row in found}


async def metrics(stack: Stack) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{stack.admin_url}/metrics") as answer,
    ):
        assert answer.status == 200
        return await answer.text()


async def pages(stack: Stack) -> str:
    """Every view of the web page, each call and each conversation."""
    query = "SELECT id, session_id FROM agent_telemetry WHERE session_id IS NOT NULL"
    rows = await stack.fetch(query)
    paths = ["/", "/conversations?since=52w", "/overview?since=52w", "/health"]
    paths += [f"/call/{row['id']}" for row in rows]
    text = ""
    async with aiohttp.ClientSession() as session:
        for path in paths:
            async with session.get(f"{stack.admin_url}{path}") as answer:
                assert answer.status == 200, path
                text += await answer.text()
        for name in {row["session_id"] for row in rows}:
            given = {"session": name}
            async with session.get(f"{stack.admin_url}/conversation", params=given) as answer:
                assert answer.status == 200, name
                text += await answer.text()
    assert "canary-7" in text
    assert text.count("[REDACTED:") > 500
    return text


async def decoded(stack: Stack, tmp_path: Path) -> str:
    """What `decode` prints of a raw exchange that failed and of one that did not."""
    text = ""
    for row in await stack.fetch("SELECT exchange FROM agent_raw ORDER BY id LIMIT 2"):
        file = tmp_path / "exchange.zst"
        file.write_bytes(row["exchange"])
        assert unpacked(row["exchange"]).request
        for arguments in ((), ("--json",)):
            done = await asyncio.to_thread(stack.command, "decode", str(file), *arguments)
            assert done.returncode == 0
            text += done.stdout + done.stderr
    return text


async def test_a_placeholder_for_a_key_leaves_prompts_as_they_are(tmp_path, dsn):
    keys = ("test", "ollama", "sk-none", "dummy")
    calls = [placeholder_call(number, key) for number, key in enumerate(keys)]
    async with (
        answering(calls) as upstream,
        Stack(tmp_path / "data", upstream, STORE__DSN=dsn) as stack,
    ):
        await make(stack, calls)
        await until(lambda: stored(stack, len(calls)), "every call has its row")
        rows = await stack.fetch("SELECT user_message, response_text FROM agent_telemetry")
    said = {sentence(key) for key in keys}
    assert {row["user_message"] for row in rows} == said
    assert {row["response_text"] for row in rows} == said


def sentence(key: str) -> str:
    return f"this is a test: ollama, {key}, dummy; is {key} a key?"


def placeholder_call(number: int, key: str) -> Call:
    """A call with such a key, about that very word."""
    message = {"role": "user", "content": sentence(key)}
    body = {"model": "m", "messages": [message]}
    reply = {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}
    headers = {"authorization": f"Bearer {key}", "x-call": str(number), "x-api-key": key}
    path = "/openai/v1/chat/completions"
    return Call(path, headers, json.dumps(body).encode(), 200, [json.dumps(reply).encode()])


async def test_what_the_program_says_of_a_fault_holds_no_secret(tmp_path):
    """A password in a connection string, a provider's key, a file that is no exchange."""
    secret = "Hunter2Hunter2Hunter2"
    settings = {
        "STORE__DSN": f"postgresql://me:{secret}@127.0.0.1:{free_port()}/db",
        "UPSTREAMS__OPENAI__API_KEY": secret,
        "ADMIN__TOKEN": secret,
        "GATEWAY__CLIENT_TOKENS": secret,
    }
    stack = Stack(tmp_path / "data", "http://127.0.0.1:9", **settings)
    file = tmp_path / "broken.json"
    file.write_text(json.dumps({"version": 1, "start": {"secret": secret}, "request": secret}))
    commands = (
        *(["check-config"], ["tail"], ["dsn", "--json"], ["decode", str(file)], ["migrate"]),
        *(["spool", "quarantine"], ["recompute"]),
    )
    for command in commands:
        done = await asyncio.to_thread(stack.command, *command)
        assert secret not in done.stdout + done.stderr, command
    async with stack:
        await until(lambda: waits(stack), "the recorder says that it waits")
    assert secret not in stack.log_text()


async def waits(stack: Stack) -> bool:
    return "recorder waits" in stack.log_text()
