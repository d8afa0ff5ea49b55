"""Sockets cut into calls: one exchange per response, the same however the socket is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from proxy.call import ModelCall
from proxy.decode.dispatch import decode
from proxy.decode.sockets import OPEN_MAX, cutter_of
from proxy.endpoints import REALTIME_SOCKET, RESPONSES_SOCKET
from proxy.exchange import AnswerHead, End, Exchange, Outcome, Start
from proxy.socket_part import SocketPart, SocketPiece
from tests.decode.cases import check
from tests.socket_scripts import Event, Provider, encoded

ID = UUID("0192f000-0000-7000-8000-000000000000")
HEAD = AnswerHead(5, 101)
CLOSED = End(9_000_000, Outcome.COMPLETE)
CLOSE = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)
CREATE: Event = {"type": "response.create", "model": "gpt-5", "input": "one"}


@dataclass
class Talk:
    """A conversation on a socket, a millisecond between its messages."""

    endpoint: str = RESPONSES_SOCKET.name

    def __post_init__(self) -> None:
        self.pieces: list[SocketPiece] = []
        is_realtime = self.endpoint == REALTIME_SOCKET.name
        self.start = Start(
            ID, 10**9, "openai", "openai", self.endpoint, "GET", "/v1/realtime?model=gpt-rt"
        )
        self.provider = Provider("/v1/realtime" if is_realtime else "/v1/responses")
        self.says(*self.provider.greeting())

    def asks(self, *messages: Event, up_to: int | None = None) -> Talk:
        """Messages of the agent, and so many events of the provider's answer to each."""
        for message in messages:
            self.agent_sends(message)
            self.says(*self.provider.answers_to(message)[:up_to])
        return self

    def agent_sends(self, message: Event) -> Talk:
        self._piece(True, Frame(Opcode.TEXT, encoded(message)).serialize(mask=True))
        return self

    def says(self, *events: Event) -> Talk:
        for event in events:
            self._piece(False, Frame(Opcode.TEXT, encoded(event)).serialize(mask=False))
        return self

    def closes(self) -> Talk:
        self._piece(True, CLOSE)
        return self

    def _piece(self, is_from_agent: bool, data: bytes) -> None:
        at_us = 1000 * (len(self.pieces) + 1)
        self.pieces.append(SocketPiece(at_us, is_from_agent, data))

    def calls(self, end: End | None = CLOSED) -> list[Exchange]:
        part = SocketPart(self.start, HEAD, tuple(self.pieces), end, is_last=True)
        return cutter_of(self.start, 10**6).take(part)


def decoded(exchanges: list[Exchange]) -> list[ModelCall]:
    calls = [decode(exchange, 10**6) for exchange in exchanges]
    assert [problem for call in calls for problem in call.problems] == []
    return calls


def test_each_response_becomes_an_exchange_with_its_own_times():
    exchanges = Talk().asks(CREATE, CREATE | {"input": "two"}).calls()
    assert [e.start.id for e in exchanges] == [uuid5(ID, "1"), uuid5(ID, "2")]
    assert [e.start.endpoint for e in exchanges] == ["responses"] * 2
    assert [e.start.at_ns for e in exchanges] == [10**9 + 1_000_000, 10**9 + 8_000_000]
    assert [e.end and e.end.at_us for e in exchanges] == [6000, 6000]
    assert [e.request for e in exchanges] == [encoded(CREATE), encoded(CREATE | {"input": "two"})]
    first, second = decoded(exchanges)
    assert (first.answer.text, second.answer.text) == ("echo one", "echo two")
    assert (first.prompt.user_message, second.prompt.user_message) == ("one", "two")
    assert (first.model, first.answer.response_id) == ("gpt-5-1", "resp_1")
    assert first.prompt.request_params == {"model": "gpt-5", "stream": True}
    assert first.answer.usage
    assert first.answer.usage.cached_tokens == 4
    assert first.answer.first_content_us == 3000
    assert first.answer.is_terminated


def test_a_body_inside_the_message_is_read_too():
    inside = {"type": "response.create", "response": {"model": "gpt-5", "input": "in"}}
    talk = Talk().agent_sends(inside).says(*Talk().provider.answers_to(CREATE))
    (call,) = decoded(talk.calls())
    assert (call.prompt.user_message, call.prompt.model) == ("in", "gpt-5")


def test_lanes_answer_side_by_side():
    a, b = CREATE | {"stream_id": "a", "input": "A"}, CREATE | {"stream_id": "b", "input": "B"}
    talk = Talk()
    answers = [talk.provider.answers_to(message) for message in (a, b)]
    talk.agent_sends(a).agent_sends(b)
    for pair in zip(*answers, strict=True):
        talk.says(*pair)
    calls = decoded(talk.calls())
    assert [call.answer.text for call in calls] == ["echo A", "echo B"]
    assert [call.prompt.user_message for call in calls] == ["A", "B"]


def test_an_error_in_place_of_an_answer_is_the_http_answer_it_stands_for():
    (exchange,) = Talk().asks(CREATE | {"model": "unknown"}).calls()
    assert exchange.head
    assert exchange.head.status == 400
    assert exchange.end
    assert exchange.end.outcome is Outcome.UPSTREAM_ERROR
    (call,) = decoded([exchange])
    assert call.answer.error == "no such model"


def test_an_error_within_an_answer_breaks_it():
    error = {"type": "error", "status": 500, "error": {"message": "overloaded"}}
    (exchange,) = Talk().asks(CREATE, up_to=3).says(error).calls()
    assert exchange.head
    assert exchange.head.status == 200
    (call,) = decoded([exchange])
    assert (call.answer.error, call.answer.text, call.answer.is_stream_error) == (
        "overloaded",
        "echo",
        True,
    )


def test_a_response_the_provider_began_by_itself_is_a_call():
    created = {"type": "response.created", "response": {"id": "r2", "previous_response_id": "r1"}}
    done = {"type": "response.completed", "response": {"id": "r2", "status": "completed"}}
    (call,) = decoded(Talk().says(created, done).calls())
    assert call.prompt.is_partial_context
    assert call.answer.finish_reason == "completed"


@pytest.mark.parametrize(
    ("closes", "end", "outcome"),
    [
        (True, CLOSED, Outcome.CLIENT_DISCONNECTED),
        (False, CLOSED, Outcome.UPSTREAM_RESET),
        (False, End(1, Outcome.CLIENT_DISCONNECTED), Outcome.CLIENT_DISCONNECTED),
        (False, End(1, Outcome.PROXY_CRASHED), Outcome.PROXY_CRASHED),
        (False, End(1, Outcome.COMPLETE, response_bytes=2, response_kept=1), Outcome.PROXY_CRASHED),
        (False, None, None),
    ],
)
def test_what_is_open_at_the_end_was_cut(closes, end, outcome):
    talk = Talk().asks(CREATE).asks(CREATE, up_to=3)
    ended, cut = (talk.closes() if closes else talk).calls(end)
    assert ended.end
    assert ended.end.outcome is Outcome.COMPLETE
    assert (cut.end and cut.end.outcome) == outcome
    (call,) = decoded([cut])
    assert (call.answer.text, call.answer.is_terminated) == ("echo", False)


def test_calls_that_are_never_answered_are_given_up():
    talk = Talk()
    for _ in range(OPEN_MAX + 2):
        talk.agent_sends(CREATE)
    calls = talk.calls()
    assert len(calls) == OPEN_MAX + 2
    assert {call.end.outcome for call in calls if call.end} == {Outcome.UPSTREAM_RESET}


def test_a_socket_without_a_call_makes_none():
    assert Talk().says({"type": "codex.rate_limits"}).closes().calls() == []


REALTIME = Talk(REALTIME_SOCKET.name).asks(
    {
        "type": "session.update",
        "session": {"instructions": "Be brief", "tools": [{"name": "look"}]},
    },
    {
        "type": "conversation.item.create",
        "item": {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "Hi"}],
        },
    },
    {"type": "response.create", "response": {"temperature": 0.5}},
    {"type": "response.create"},
)


def test_a_realtime_call_holds_session_and_conversation():
    exchanges = REALTIME.calls()
    assert [e.start.endpoint for e in exchanges] == ["realtime"] * 2
    first, second = decoded(exchanges)
    assert first.prompt.system_prompt == "Be brief"
    assert first.prompt.user_message == second.prompt.user_message == "Hi"
    assert first.prompt.request_params == {
        "model": "gpt-realtime",
        "tools": [{"name": "look"}],
        "temperature": 0.5,
    }
    assert [len(call.prompt.chat_history) for call in (first, second)] == [1, 2]
    assert first.answer.text == "spoken word"
    assert [(call.name, call.arguments) for call in first.answer.tool_calls] == [
        ("look", {"at": 1})
    ]
    assert first.answer.usage
    assert first.answer.usage.cached_tokens == 4
    assert (
        first.answer.usage.raw
        == json.loads(exchanges[0].response[-1].data[6:])["response"]["usage"]
    )


def test_a_realtime_call_that_is_cut_keeps_what_was_said():
    talk = Talk(REALTIME_SOCKET.name).asks({"type": "response.create"}, up_to=5)
    (call,) = decoded(talk.calls(None))
    assert call.answer.text == "spoken "
    assert call.prompt.model == "gpt-realtime"


def test_speech_that_the_provider_detects_begins_a_call():
    spoken = {"id": "i1", "type": "message", "role": "user", "content": [{"type": "input_audio"}]}
    heard = {
        "type": "conversation.item.input_audio_transcription.completed",
        "item_id": "i1",
        "content_index": 0,
        "transcript": "What time is it?",
    }
    talk = Talk(REALTIME_SOCKET.name).says(
        {"type": "conversation.item.added", "item": spoken}, heard
    )
    talk.says(*talk.provider.answers_to({"type": "response.create"}))
    (call,) = decoded(talk.calls())
    assert call.prompt.user_message == "What time is it?"
    assert call.prompt.chat_history == (
        spoken | {"content": [{"type": "input_audio", "transcript": "What time is it?"}]},
    )


def test_most_realtime_errors_end_no_call_and_a_refusal_does():
    talk = Talk(REALTIME_SOCKET.name).agent_sends({"type": "response.create", "event_id": "e1"})
    other = {"type": "error", "error": {"message": "bad item", "event_id": "e0"}}
    refusal = {"type": "error", "error": {"message": "busy", "event_id": "e1"}}
    (call,) = decoded(talk.says(other, refusal).calls())
    assert call.answer.error == "busy"


def test_messages_that_are_no_json_are_passed_over():
    talk = Talk()
    talk.pieces.append(SocketPiece(1, True, Frame(Opcode.BINARY, b"\xff\x00").serialize(mask=True)))
    talk.pieces.append(SocketPiece(1, False, Frame(Opcode.TEXT, b"[1]").serialize(mask=False)))
    assert len(talk.asks(CREATE).calls()) == 1


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.sampled_from([0, 1]))
def test_however_a_socket_is_read_its_calls_are_the_same(steps, which):
    """Pieces cut anywhere, and parts ending anywhere, give the same calls."""
    talk = (Talk().asks(CREATE, CREATE), REALTIME)[which]
    cutter, found, number = cutter_of(talk.start, 10**6), [], 0
    for piece in talk.pieces:
        at = 0
        while at < len(piece.data):
            step = steps[number % len(steps)]
            data = piece.data[at : at + step]
            cut = SocketPiece(piece.at_us, piece.is_from_agent, data)
            found += cutter.take(SocketPart(talk.start, HEAD, (cut,)))
            at, number = at + step, number + 1
    found += cutter.take(SocketPart(talk.start, end=CLOSED, is_last=True))
    assert found == talk.calls()


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), max_size=20))
def test_any_bytes_make_calls_or_none(pieces):
    """Cutting never raises."""
    start = Talk().start
    parts = tuple(SocketPiece(0, side, data) for side, data in pieces)
    cutter_of(start, 1000).take(SocketPart(start, HEAD, parts, None, is_last=True))


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda c: (
            st.lists(c)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "response",
                        "id",
                        "item",
                        "stream_id",
                        "error",
                        "status",
                        "session",
                        "content",
                    ]
                ),
                c,
            )
        ),
    )
)
def test_any_event_is_survived(value):
    """Whatever JSON a provider sends in whatever place, it is cut and no decoder fails."""
    for endpoint in (RESPONSES_SOCKET.name, REALTIME_SOCKET.name):
        for kind in ("response.created", "response.done", "error", "session.updated"):
            event = {"type": kind, **(value if isinstance(value, dict) else {"response": value})}
            event["type"] = kind
            talk = Talk(endpoint).agent_sends({"type": "response.create", "response": value})
            for exchange in talk.says(event).calls():
                check(decode(exchange, 10**6))
