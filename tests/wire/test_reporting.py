"""Reports for the gateway itself: what is taken, and what is told to whoever sent a bad one."""

import json

import pytest

from tests.fakes import answering, connect, whole
from tests.wire.gateways import stand

TURNS, FEEDBACK = "/telemetry/v1/turns", "/telemetry/v1/feedback"
UUID = "018f2f2e-7a5c-7cc1-9d3a-1f2a3b4c5d6e"
TOKEN = "a-client-token-of-the-tests"
TURN = {
    "session_id": "thread-42",
    "turn_id": "7",
    "project_id": "shop",
    "stop_reason": "round_cap",
    "rounds": 12,
    "tool_call_count": 11,
    "turn_intent": "buy",
    "chat_mode": "agent",
    "tool_results": [
        {"id": "c1", "name": "grep", "round": 1, "is_error": True, "output": "no", "latency_ms": 3}
    ],
    "user_message": "find it",
    "labels": {"team": "a", "nested": {"x": [1, None]}},
}
TAKEN = [
    (TURNS, TURN),
    (TURNS, {"session_id": "s"}),
    (TURNS, {"session_id": "s", "stop_reason": None, "labels": None}),
    (TURNS, {"session_id": "s", "tool_results": [{"output": {"any": ["JSON"]}}]}),
    (FEEDBACK, {"session_id": "s", "name": "thumbs", "value": "up", "comment": "fine"}),
    (FEEDBACK, {"session_id": "s", "turn_id": "7", "name": "score", "value": 0.5}),
    (FEEDBACK, {"turn_id": UUID, "name": "ok", "value": False}),
    (FEEDBACK, {"call_id": UUID, "name": "why", "value": {"deep": [1]}}),
]
REFUSED = [
    (TURNS, {}, "session_id"),
    (TURNS, {"session_id": ""}, "session_id"),
    (TURNS, {"session_id": 7}, "session_id"),
    (TURNS, {"session_id": None}, "session_id"),
    (TURNS, {"session_id": "s", "rounds": "12"}, "rounds"),
    (TURNS, {"session_id": "s", "rounds": -1}, "rounds"),
    (TURNS, {"session_id": "s", "rounds": True}, "rounds"),
    (TURNS, {"session_id": "s", "rounds": 2**31}, "rounds"),
    (TURNS, {"session_id": "s", "tool_call_count": 1.5}, "tool_call_count"),
    (TURNS, {"session_id": "s", "stop_reason": "x" * 256}, "stop_reason"),
    (TURNS, {"session_id": "s", "stop_reason": ""}, "stop_reason"),
    (TURNS, {"session_id": "s", "labels": ["a"]}, "labels"),
    (TURNS, {"session_id": "s", "labels": {str(n): n for n in range(65)}}, "labels"),
    (TURNS, {"session_id": "s", "tool_results": {}}, "tool_results"),
    (
        TURNS,
        {"session_id": "s", "tool_results": [{}, {"is_error": "no"}]},
        "tool_results.1.is_error",
    ),
    (
        TURNS,
        {"session_id": "s", "tool_results": [{"latency_ms": "3"}]},
        "tool_results.0.latency_ms",
    ),
    (TURNS, {"session_id": "s", "stop_reson": "typo"}, "stop_reson"),
    (TURNS, ["session_id"], "body"),
    (TURNS, b"{not json", "body"),
    (TURNS, b"", "body"),
    (TURNS, b'{"session_id": "\\ud800"}', "body"),
    (TURNS, b"[" * 100_000, "body"),
    (FEEDBACK, {"session_id": "s", "value": 1}, "name"),
    (FEEDBACK, {"session_id": "s", "name": "n"}, "value"),
    (FEEDBACK, {"session_id": "s", "name": "n", "value": None}, "value"),
    (FEEDBACK, {"name": "n", "value": 1}, "session_id"),
    (FEEDBACK, {"turn_id": "7", "name": "n", "value": 1}, "turn_id"),
    (FEEDBACK, {"call_id": "7", "name": "n", "value": 1}, "call_id"),
    (FEEDBACK, {"session_id": "s", "name": "n", "value": 1, "comment": 3}, "comment"),
]


def report(path, body, *lines, method="POST"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
    return b"".join((head, *lines, b"Content-Length: %d\r\n\r\n" % len(data), data))


async def answered(s, *request):
    async with connect(s.address) as agent:
        await agent.send(report(*request))
        return await agent.message()


@pytest.mark.parametrize(("path", "body"), TAKEN)
async def test_a_report_is_taken_with_its_id_and_is_in_the_spool_by_then(path, body):
    async with stand(answering(whole(b"never"))) as s:
        answer = await answered(s, path, body)
        assert answer.status == 202
        exchange = s.sink.only
        assert json.loads(answer.body) == {"report_id": str(exchange.start.id)}
        assert exchange.start.endpoint == f"report.{path.rpartition('/')[2]}"
        given = {name: value for name, value in body.items() if value is not None}
        assert json.loads(exchange.request).keys() == given.keys()
        assert exchange.end is not None
        assert s.upstream.connections == 0


@pytest.mark.parametrize(("path", "body", "field"), REFUSED)
async def test_a_bad_report_is_refused_with_the_field_and_leaves_no_trace(path, body, field):
    async with stand(answering(whole(b"never"))) as s:
        answer = await answered(s, path, body)
        assert answer.status == 400
        error = json.loads(answer.body)["error"]
        assert error["param"] == field
        assert error["message"].startswith(f"agent-telemetry: {field}: ")
        assert s.sink.exchanges == {}


async def test_labels_of_path_and_headers_stand_in_for_what_the_body_lacks():
    async with stand(answering(whole(b"never"))) as s:
        answer = await answered(s, f"/p/shop/s/one{TURNS}", {"rounds": 1})
        assert answer.status == 202
        answer = await answered(
            s, f"/p/shop{TURNS}", {"session_id": "own"}, b"x-telemetry-project: header\r\n"
        )
        assert answer.status == 202
        said = [json.loads(exchange.request) for exchange in s.sink.ended]
        assert said == [
            {"session_id": "one", "project_id": "shop", "rounds": 1},
            {"session_id": "own", "project_id": "header"},
        ]


async def test_several_reports_go_over_one_connection():
    async with stand(answering(whole(b"never"))) as s:
        for number in range(3):
            await s.agent.send(report(TURNS, {"session_id": str(number)}))
            assert (await s.agent.message()).status == 202
        assert len(s.sink.ended) == 3


@pytest.mark.parametrize(
    ("path", "method", "lines", "status"),
    [
        (TURNS, "GET", (), 405),
        (FEEDBACK, "PUT", (), 405),
        ("/telemetry/v1/turn", "POST", (), 404),
        ("/telemetry/v2/turns", "POST", (), 404),
        (TURNS, "POST", (b"Origin: http://127.0.0.1:3000\r\n",), 403),
        (TURNS, "POST", (b"Sec-Fetch-Site: cross-site\r\n",), 403),
        (TURNS, "POST", (b"x-telemetry-record: off\r\n",), 400),
    ],
)
async def test_what_is_no_report_is_refused(path, method, lines, status):
    async with stand(answering(whole(b"never"))) as s:
        async with connect(s.address) as agent:
            await agent.send(report(path, {"session_id": "s"}, *lines, method=method))
            assert (await agent.message()).status == status
        assert s.sink.exchanges == {}


async def test_a_client_token_is_required_where_one_is_configured():
    gateway = {"client_tokens": [TOKEN]}
    async with stand(answering(whole(b"never")), gateway=gateway) as s:
        assert (await answered(s, TURNS, {"session_id": "s"})).status == 401
        by_path = await answered(s, f"/t/{TOKEN}{TURNS}", {"session_id": "s"})
        header = f"x-telemetry-token: {TOKEN}\r\n".encode()
        by_header = await answered(
            s, FEEDBACK, {"session_id": "s", "name": "n", "value": 1}, header
        )
        assert (by_path.status, by_header.status) == (202, 202)
        for exchange in s.sink.ended:
            assert TOKEN.encode() not in exchange.to_bytes()


async def test_a_report_that_cannot_be_kept_is_not_accepted():
    async with stand(answering(whole(b"never")), capture={"enabled": False}) as s:
        assert (await answered(s, TURNS, {"session_id": "s"})).status == 503
    async with stand(answering(whole(b"never"))) as s:
        s.sink.is_full = True
        assert (await answered(s, TURNS, {"session_id": "s"})).status == 503
        assert s.sink.exchanges == {}
    async with stand(answering(whole(b"never"))) as s:
        too_large = json.dumps({"session_id": "s", "user_message": "x" * 5_000_000}).encode()
        assert (await answered(s, TURNS, too_large)).status == 413
