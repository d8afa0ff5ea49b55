"""Signing anew: a Bedrock that verifies signatures with botocore's own code takes what is sent."""

import re

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from proxy.exchange import Outcome
from proxy.wire import signing
from tests.fakes import Message, Peer, answering, chunked, whole
from tests.wire.gateways import stand

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
REGION = {"dialect": "bedrock", "aws_region": "eu-central-1"}
CONVERSE = b"/fake/model/eu.anthropic.claude-3%3A0/converse"
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
    r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})"
)


def is_signed(message: Message, port: int, token: str | None = None) -> bool:
    """Whether the signature holds for what arrived, computed by botocore."""
    method, target, _ = message.first_line.decode().split(" ")
    found = AUTHORIZATION.fullmatch((message.get(b"authorization") or b"").decode())
    if found is None:
        return False
    key, _, region, service, names, signature = found.groups()
    assert (key, region, service) == (KEY, "eu-central-1", "bedrock")
    headers = {name: (message.get(name.encode()) or b"").decode() for name in names.split(";")}
    assert headers["host"] == f"127.0.0.1:{port}"
    assert headers.get("x-amz-security-token") == token
    request = AWSRequest(method, f"http://127.0.0.1:{port}{target}", headers, data=message.body)
    request.context["timestamp"] = headers["x-amz-date"]
    auth = SigV4Auth(Credentials(KEY, SECRET, token), service, region)
    return (
        auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        == signature
    )


def request(
    body: bytes, *lines: bytes, target: bytes = CONVERSE, is_chunked: bool = False
) -> bytes:
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % len(body)
    head = [b"POST " + target + b" HTTP/1.1", b"Host: localhost:8080", framing, *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + (chunked([body]) if is_chunked else body)


@pytest.fixture(autouse=True)
def _credentials(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


OF_THE_AGENT = (
    b"Authorization: AWS4-HMAC-SHA256 Credential=AKIATHEAGENTSOWN/20260101/us-east-1/bedrock/"
    b"aws4_request, SignedHeaders=host, Signature=" + b"0" * 64,
    b"X-Amz-Date: 20260101T000000Z",
    b"X-Amz-Security-Token: the-agents-own-token",
)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(request(b"{}", *OF_THE_AGENT, b"Content-Type: application/json"), id="signed"),
        pytest.param(request(b"{}"), id="unsigned"),
        pytest.param(request(b"", *OF_THE_AGENT), id="without a body"),
        pytest.param(request(b"x" * 2_000_000, *OF_THE_AGENT), id="large"),
        pytest.param(request(b"{}", is_chunked=True), id="chunked"),
        pytest.param(request(b"{}", b"X-Amzn-Bedrock-Trace: ENABLED"), id="a header of AWS"),
        pytest.param(request(b"{}", target=CONVERSE + b"?b=2&a=1"), id="with a query"),
        pytest.param(request(b"{}", b"Authorization: Bearer key"), id="a bearer key"),
    ],
)
async def test_what_is_sent_bears_a_signature_that_holds(sent):
    seen: list[Message] = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.message())
            await peer.send(whole(b"{}"))

    async with stand(script, REGION) as s:
        answers = []
        while len(answers) < 2 and not (answers and answers[0].get(b"connection")):
            await s.agent.send(sent)  # the second on a kept connection
            answers.append(await s.agent.message())
        assert {answer.status for answer in answers} == {200}
        assert all(is_signed(message, s.upstream.port) for message in seen)
        bodies = [exchange.request for exchange in s.sink.ended]
    assert bodies == [message.body for message in seen]
    assert all(len(message.all(b"authorization")) == 1 for message in seen)
    assert not any(b"the-agents-own-token" in (m.get(b"x-amz-security-token") or b"") for m in seen)


async def test_a_session_token_is_sent_and_signed(monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    seen: list[Message] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.message())
        await peer.send(whole(b"{}"))

    async with stand(script, REGION) as s:
        await s.agent.send(request(b"{}"))
        await s.agent.message()
        assert is_signed(seen[0], s.upstream.port, "session")


async def test_without_credentials_the_agent_is_told(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with stand(answering(whole(b"{}")), REGION) as s:
        await s.agent.send(request(b"{}"))
        answer = await s.agent.message()
    assert answer.status == 502
    assert b"AWS_ACCESS_KEY_ID" in answer.body
    assert s.sink.only.end.outcome is Outcome.UPSTREAM_UNREACHABLE


async def test_a_body_that_is_too_large_to_be_signed_is_refused(monkeypatch):
    monkeypatch.setattr("proxy.wire.call.BODY_BYTES_MAX", 1000)
    async with stand(answering(whole(b"{}")), REGION) as s:
        await s.agent.send(request(b"x" * 1001))
        answer = await s.agent.message()
    assert answer.status == 413


async def test_an_agent_that_waits_for_100_continue_gets_it():
    async with stand(answering(whole(b"{}")), REGION) as s:
        await s.agent.send(request(b"{}", b"Expect: 100-continue")[:-2])
        assert await s.agent.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await s.agent.send(b"{}")
        assert (await s.agent.message()).status == 200


@pytest.mark.parametrize("has_extra", [True, False])
async def test_without_region_or_extra_a_signed_request_is_answered_with_the_remedy(
    monkeypatch, has_extra
):
    settings = {"dialect": "bedrock"}
    if not has_extra:
        monkeypatch.setattr(signing, "find_spec", lambda name: None)
        settings = REGION
    async with stand(answering(whole(b"{}")), settings) as s:
        await s.agent.send(request(b"{}", *OF_THE_AGENT))
        answer = await s.agent.message()
        assert answer.status == 400
        assert b"upstreams.fake.aws_region" in answer.body
        assert s.upstream.connections == 0


async def test_a_browsers_page_may_not_spend_the_gateways_credentials():
    async with stand(answering(whole(b"{}")), REGION) as s:
        await s.agent.send(request(b"{}", b"Origin: http://x"))
        assert (await s.agent.message()).status == 403


TOKEN = b"tok-0123456789abcdef"


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (b"Authorization: Bearer " + TOKEN, CONVERSE),
        (b"X-Api-Key: " + TOKEN, CONVERSE),
        (b"X-Goog-Api-Key: " + TOKEN, CONVERSE),
        (b"Api-Key: " + TOKEN, CONVERSE),
        (b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key." + TOKEN, CONVERSE),
        (b"X-Other: 1", CONVERSE + b"?a=1&key=" + TOKEN),
    ],
)
async def test_a_client_token_in_the_place_of_a_key_does_not_go_on(line, target):
    seen: list[Message] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.message())
        await peer.send(whole(b"{}"))

    async with stand(script, REGION, gateway={"client_tokens": [TOKEN.decode()]}) as s:
        await s.agent.send(request(b"{}", line, target=target))
        assert (await s.agent.message()).status == 200
        assert is_signed(seen[0], s.upstream.port)
    told = [seen[0].first_line, *(value for _, value in seen[0].fields)]
    assert not any(TOKEN in each for each in told)
