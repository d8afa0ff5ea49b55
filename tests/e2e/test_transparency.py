"""Every fixture through the running program: the same bytes, whatever state telemetry is in."""

import hashlib
import json

import pytest

from tests.decode.cases import body_of
from tests.e2e.replay import CASES, SPLITS, replaying
from tests.e2e.stack import Stack, free_port, until
from tests.fakes import Message, connect, post

CALLS = "SELECT id::text, capture FROM agent_telemetry WHERE record_type = 'llm_call'"
NO_DATABASE = "postgresql://nobody@127.0.0.1:{port}/none"


def state(name: str) -> dict[str, str]:
    return {} if name == "healthy" else {"STORE__DSN": NO_DATABASE.format(port=free_port())}


@pytest.mark.parametrize("telemetry", ["healthy", "database down", "recorder dead"])
async def test_the_agent_gets_the_providers_bytes(tmp_path, telemetry):
    role = "gateway" if telemetry == "recorder dead" else "serve"
    with replaying() as upstream:
        async with Stack(tmp_path / "data", upstream, role=role, **state(telemetry)) as stack:
            ids = [row for split in SPLITS for row in await ask_all(stack, split)]
            assert len(set(ids)) == len(CASES) * len(SPLITS)
            if telemetry == "healthy":
                await check_rows(stack, ids)
            else:
                status = json.loads(stack.command("spool", "status", "--json").stdout)
                assert status["captured"] == status["waiting"] == len(ids)


async def ask_all(stack: Stack, split: str) -> list[str]:
    return [await ask(stack, number, split) for number in range(len(CASES))]


async def ask(stack: Stack, number: int, split: str) -> str:
    """One case through the gateway; its row's id."""
    name, case = CASES[number]
    body, sent = json.dumps(case["request"]).encode(), body_of(case["answer"])
    lines = (f"x-case: {number}", f"x-split: {split}", f"x-framing: {'cl' if number % 2 else ''}")
    head = [line.encode() for line in lines]
    async with connect(("127.0.0.1", stack.port)) as agent:
        await agent.send(post(b"/openai" + case["target"].encode(), body, *head))
        answer = await agent.message(has_no_body=False)
    assert answer.body == sent, name
    assert answer.first_line == f"HTTP/1.1 {case.get('status', 200)} Replayed".encode(), name
    check_head(answer, number, hashlib.sha256(body).hexdigest())
    found = answer.get(b"x-agent-telemetry-id")
    assert found, name
    return found.decode()


def check_head(answer: Message, number: int, request_sha256: str) -> None:
    """The provider's fields, in order, with their case and blanks; and one of ours."""
    names = [name for name, _ in answer.fields if name.lower() not in (b"content-length",)]
    kept = [b"Content-Type", b"X-Request-Id", b"x-odd", b"X-Odd", b"X-Received"]
    assert [name for name in names if name in kept] == kept
    extra = {name.lower() for name in names if name not in kept}
    assert extra <= {b"x-agent-telemetry-id", b"transfer-encoding"}
    assert [value.strip() for value in answer.all(b"x-odd")] == [b"two  blanks", b"again"]
    assert answer.get(b"x-request-id") == f"req-{number}".encode()
    assert answer.get(b"x-received") == request_sha256.encode()


async def check_rows(stack: Stack, ids: list[str]) -> None:
    await stack.until_ready()

    async def all_stored() -> bool:
        query = "SELECT count(*) FROM agent_telemetry WHERE id::text = ANY($1)"
        return (await stack.fetch(query, ids))[0]["count"] == len(ids)

    await until(all_stored, "every call has a row")
    rows = await stack.fetch(CALLS)
    assert len(rows) == len(ids)
    captures = {row["id"]: json.loads(row["capture"]) for row in rows}
    for number, row_id in enumerate(ids[: len(CASES)]):
        body = body_of(CASES[number][1]["answer"])
        assert captures[row_id]["response_sha256"] == hashlib.sha256(body).hexdigest()
