"""How turns end: one small conversation for each reason, and for each way to miss it."""

from datetime import timedelta

import pytest

from proxy.config import Turns
from tests.turns.scripts import BEGIN, Talk, judged


def loop(*rounds, last=None, talk=None, **columns):
    """A turn whose rounds call one tool each: (name, arguments, output[, text])."""
    talk = talk or Talk("s").user("do it")
    for name, arguments, output, *text in rounds:
        talk.call(text[0] if text else "hm", [(name, arguments)]).results(output)
    return talk.call(last, **columns)


def same(times, output="ok"):
    return [("read", {"p": 1}, output)] * times


def alternating(times):
    return [("read", {"p": n % 2}, f"ok {n}") for n in range(times)]


def failing(*codes):
    return [("read", {"p": n}, f"Error: no such file, code {c}") for n, c in enumerate(codes)]


OPEN = {"tools": [("read", {"p": "last"})]}
ENDINGS = [
    ("completed", loop(last="done")),
    ("completed", loop(*same(2), last="done")),
    ("completed", loop(*same(5), last="gave up")),
    ("completed", loop(*failing(1, 1, 1), last="cannot")),
    ("completed", loop(last="searched", tool_calls=[{"name": "web", "id": "w", "server": True}])),
    ("empty_no_tools", loop(last=None)),
    ("empty_no_tools", loop(*same(2), last=" \n")),
    ("refused", loop(last="I can't", finish_reason="content_filter")),
    ("refused", loop(last=None, finish_reason="SAFETY")),
    ("refused", loop(last=None, finish_reason="MODEL_ARMOR")),
    ("refused", loop(last="I cannot", capture={"refusal": True})),
    ("max_tokens", loop(last="and then", finish_reason="length")),
    ("max_tokens", loop(last="and then", finish_reason="MAX_TOKENS")),
    ("upstream_error", loop(last=None, outcome="upstream_error")),
    ("upstream_error", loop(*same(1), last="half", outcome="stream_error")),
    ("user_aborted", loop(last="half an ans", outcome="client_disconnected")),
    ("abandoned", loop(last="let me see", **OPEN)),
    ("abandoned", loop(*failing(1), last="let me see", **OPEN)),
    ("loop_detected:same_call:read", loop(*same(2), last="again", tools=[("read", {"p": 1})])),
    ("loop_detected:same_call:read", loop(*same(3), last=None)),
    ("loop_detected:same_call:read", loop(*same(3), last=None, outcome="upstream_error")),
    ("loop_detected:ping_pong:read", loop(*alternating(6), last=None)),
    ("loop_detected:same_error:read", loop(*failing(4711, 4712, 4713), last=None)),
    ("tool_failure", loop(*failing(1), last=None)),
    ("tool_failure", loop(*failing(1, 2), last="once more", **OPEN)),
    ("silent_rounds", loop(*[("read", {"p": n}, "ok", None) for n in range(2)], **OPEN)),
]


@pytest.mark.parametrize(("reason", "talk"), ENDINGS, ids=[reason for reason, _ in ENDINGS])
def test_a_turn_ends_for_the_first_reason_that_applies(reason, talk):
    assert judged(talk).reasons == [reason]


def test_a_new_message_while_tools_are_open_aborts_the_turn():
    talk = Talk("s").user("go").call("hm", [("read", {})]).user("never mind").call("fine")
    assert judged(talk).reasons == ["user_aborted", "completed"]


def test_a_new_message_long_after_the_turn_was_idle_aborts_nothing():
    talk = Talk("s").user("go").call("hm", [("read", {})]).wait(700).user("hello?").call("yes")
    assert judged(talk).reasons == ["abandoned", "completed"]


def test_an_aborted_answer_that_is_gone_on_with_is_not_the_end():
    talk = Talk("s").user("go").call("ha", outcome="client_disconnected").call("done")
    assert judged(talk).reasons == ["completed"]


@pytest.mark.parametrize(("cap", "reason"), [(3, "round_cap"), (4, "silent_rounds")])
def test_a_round_cap_counts_where_it_is_known(cap, reason):
    rounds = [("read", {"p": n}, "ok", None) for n in range(2)]
    talk = loop(*rounds, **OPEN)
    assert judged(talk, settings=Turns(round_cap=cap)).reasons == [reason]


def test_the_agents_own_label_says_its_round_cap():
    talk = loop(*same(1), last="hm", labels={"round-cap": "2"}, **OPEN)
    assert judged(talk).reasons == ["round_cap"]


def test_the_same_answer_thrice_is_a_loop():
    talk = Talk("s").user("go")
    for _ in range(3):
        talk.call("I will do it now.").user("Continue from where you left off.")
    assert judged(talk.call(None)).reasons == ["loop_detected:same_answer"]


@pytest.mark.parametrize(
    ("talk", "is_known"),
    [
        (loop(last="done"), True),
        (loop(last=None), True),
        (loop(last="no", finish_reason="refusal"), True),
        (loop(last="no", capture={"refusal": True}), True),
        (loop(last="cut", finish_reason="length"), False),
        (loop(last=None, outcome="upstream_error"), False),
        (loop(last="hm", **OPEN), False),
        (loop(*same(3), last=None), False),
    ],
)
def test_only_endings_that_need_no_waiting_are_known_at_once(talk, is_known):
    at = talk.records[-1].created_at + timedelta(seconds=1)
    assert [found is not None for found in judged(talk, now=at).endings] == [is_known]
    assert judged(talk, now=at + timedelta(seconds=601)).endings[0] is not None


def test_a_turn_is_not_idle_while_its_sub_agent_works():
    main = Talk("s").user("go").call("hm", [("agent", {"prompt": "count all the words"})])
    child = Talk("s", at=main.at).user("count all the words").call("hm", [("read", {})])
    child.wait(500).results("ok").call("hm", [("read", {})])
    assert judged(main, child, now=BEGIN + timedelta(seconds=900)).reasons == [None, None]


def test_an_ending_names_the_calls_it_rests_on():
    talk = loop(*same(3), last=None)
    found = judged(talk).endings[0]
    assert found.calls == tuple(record.id for record in talk.records[:3])
    assert found.rule == "same_call 3 times"


@pytest.mark.parametrize("name", ["final_answer", "final_result", "final_result_Bill", "finish"])
def test_a_tool_that_hands_in_the_answer_completes_the_turn_at_once(name):
    talk = Talk("s").user("one").call(None, [("read", {})]).results("ok")
    talk.call(None, [(name, {"answer": "12"})])
    assert judged(talk, now=BEGIN).reasons == ["completed"]
    talk.results("done").user("two").call("fine")
    assert judged(talk).reasons == ["completed", "completed"]


def test_a_failure_may_be_told_in_the_words_of_the_agents_sdk():
    talk = Talk("s").user("one")
    for number in range(3):
        talk.call("hm", [("read", {"p": number})])
        talk.results("An error occurred while running the tool. Please try again.")
    assert judged(talk.call("hm", [("read", {"p": 4})])).reasons == [
        "loop_detected:same_error:read"
    ]
