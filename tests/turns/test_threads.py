"""Which call belongs where: one small conversation for each rule."""

import json

import orjson
import pytest

from proxy.enrich.facts import link_of
from proxy.turn import Facts, Kind, Placement, turn_id
from tests.turns.scripts import DIGESTS, Talk, judged

REMINDER = "<system-reminder>\nToday is Monday.\n</system-reminder>"
NUDGE = "[Your previous response had no visible output. Please continue.]"
SUMMARY = "This session is being continued from a previous conversation that ran out of context."


def turns_and_rounds(found):
    """For each call: the number of its turn, and its round."""
    order = [turn.id for turn in found.turns]
    return [
        (order.index(where.turn), where.round) if where.turn else None
        for where in (found.placements[id] for id in found.facts)
    ]


@pytest.mark.parametrize("session", [None, "s"])
@pytest.mark.parametrize("has_ids", [True, False])
def test_tool_results_continue_a_turn_and_a_message_begins_the_next(session, has_ids):
    talk = Talk(session, has_ids=has_ids).user("one").call("hm", [("read", {"p": 1})])
    talk.results("ok").call("done").user("two").call("done as well")
    found = judged(talk)
    assert turns_and_rounds(found) == [(0, 1), (0, 2), (1, 1)]
    assert set(found.sessions) == {session or str(talk.records[0].id)}


@pytest.mark.parametrize("has_ids", [True, False])
def test_conversations_that_begin_with_the_same_words_stay_apart(has_ids):
    talks = [Talk(has_ids=has_ids) for _ in range(10)]
    for number, talk in enumerate(talks):
        talk.wait(number / 100).user("hello").call(f"hello {number}")
    for number, talk in enumerate(talks):
        talk.user("go on").call("hm", [("read", {"p": 1})]).results(f"ok {number}").call("done")
    found = judged(*talks)
    for talk in talks:
        assert {found.placements[r.id].session for r in talk.records} == {str(talk.records[0].id)}


def test_ids_that_begin_anew_in_each_conversation_do_not_mix_them_up():
    talks = [Talk(only_id="functions.read:0").wait(n / 10).user(f"find {n}") for n in range(4)]
    for number, talk in enumerate(talks):
        talk.call(None, [("read", {"p": number})])
    for number, talk in enumerate(reversed(talks)):
        talk.wait(number).results("ok").call("done")
    found = judged(*talks)
    for talk in talks:
        assert {found.placements[r.id].session for r in talk.records} == {str(talk.records[0].id)}


def test_a_call_without_a_label_is_given_to_one_without():
    labelled = Talk("s", has_ids=False).user("one").call("hm", [("read", {})])
    other = Talk(has_ids=False).wait(0.5).user("one").call("hm", [("read", {})])
    other.wait(-0.5).results("ok").call("done")
    found = judged(labelled.wait(5).results("ok").call("done"), other)
    sessions = [{found.placements[r.id].session for r in t.records} for t in (labelled, other)]
    assert sessions == [{"s"}, {str(other.records[0].id)}]


def test_a_request_without_a_label_repeats_no_labelled_one_that_failed():
    labelled = Talk("s").user("one").call(None, outcome="upstream_error").call("done")
    other = Talk().wait(1.5).user("one").call("done")
    found = judged(labelled, other)
    sessions = [{found.placements[r.id].session for r in t.records} for t in (labelled, other)]
    assert sessions == [{"s"}, {str(other.records[0].id)}]


def test_ids_that_begin_anew_in_each_answer_do_not_mix_up_rounds():
    talk = Talk("s", only_id="call_0").user("one")
    for number in range(3):
        talk.call(None, [("read", {"p": number})]).results(f"ok {number}")
    other = talk.branch()
    talk.call("done")
    found = judged(talk, other.wait(5).call("done otherwise"))
    assert turns_and_rounds(found)[-1] == (0, 4)
    assert found.placements[other.records[0].id].parent == talk.records[3].id  # its twin


def test_a_refusal_that_the_client_sends_back_in_its_own_member_continues():
    talk = Talk().user("one").call("I cannot", is_kept=False, capture={"refusal": True})
    talk.messages.append({"role": "assistant", "content": None, "refusal": "I cannot"})
    found = judged(talk.user("two").call("done"))
    assert set(found.sessions) == {str(talk.records[0].id)}
    assert found.reasons == ["refused", "completed"]


def test_like_conversations_take_turns():
    talks = [Talk(has_ids=False).wait(n / 10).user("hi").call("hm", [("read", {})]) for n in (0, 1)]
    for talk in talks:
        talk.results("ok").call("done")
    assert [len(turn.calls) for turn in judged(*talks).turns] == [2, 2]


@pytest.mark.parametrize("outcome", ["upstream_error", "upstream_reset", "client_disconnected"])
@pytest.mark.parametrize("session", [None, "s"])
def test_a_request_after_a_failure_retries_its_round(outcome, session):
    talk = Talk(session).user("one").call(None, outcome=outcome).call("hm", [("read", {})])
    found = judged(talk.results("ok").call(None, outcome=outcome).call("done"))
    assert turns_and_rounds(found) == [(0, 1), (0, 1), (0, 2), (0, 2)]
    assert found.reasons == ["completed"]


def test_a_retry_may_hold_what_was_finished_of_the_cut_answer():
    talk = Talk("s").user("one").call("first part", outcome="upstream_reset")
    talk.messages.append({"role": "assistant", "content": "first part"})
    assert turns_and_rounds(judged(talk.call("all of it"))) == [(0, 1), (0, 1)]


def test_another_programs_same_words_are_no_retry():
    first = Talk().user("one").call(None, outcome="upstream_error", client="a/1")
    second = Talk().wait(5).user("one").call("here", client="b/1")
    assert len(set(judged(first, second).sessions)) == 2


def test_a_message_after_a_failure_begins_a_turn():
    talk = Talk("s").user("one").call(None, outcome="upstream_error").user("two").call("done")
    assert turns_and_rounds(judged(talk)) == [(0, 1), (1, 1)]


@pytest.mark.parametrize(
    "text", [NUDGE, "Output token limit hit. Resume directly", "Continue from where you left off."]
)
def test_texts_of_the_client_are_rounds_of_the_same_turn(text):
    talk = Talk("s").user("one").call("a part", finish_reason="length").user(text).call("the rest")
    assert turns_and_rounds(judged(talk)) == [(0, 1), (0, 2)]


@pytest.mark.parametrize("session", [None, "s"])
def test_a_nudge_beside_the_same_message_is_another_round(session):
    talk = Talk(session).user(REMINDER, "one").call(None)
    talk.messages[-1] = {"role": "user", "content": f"{REMINDER}\none"}
    talk.messages[-1]["content"] = [{"type": "text", "text": t} for t in (REMINDER, "one", NUDGE)]
    assert turns_and_rounds(judged(talk.call("here"))) == [(0, 1), (0, 2)]


def test_the_same_request_after_an_empty_answer_is_another_conversation_without_a_label():
    first, second = Talk().user("one").call(None), Talk().wait(5).user("one").call("here")
    assert len(set(judged(first, second).sessions)) == 2


def test_a_filler_that_no_call_returned_does_no_harm():
    talk = Talk().user("one").call("hm", [("read", {})]).results("ok")
    talk.call("half", outcome="client_disconnected")
    talk.messages[-1]["content"] = "ok"
    talk.user("Continue from where you left off.")
    talk.messages.append({"role": "assistant", "content": "No response requested."})
    found = judged(talk.user("two").call("done"))
    assert turns_and_rounds(found) == [(0, 1), (0, 2), (1, 1)]
    assert found.reasons == ["user_aborted", "completed"]


def test_an_edited_message_forks_the_thread():
    talk = Talk().user("one").call("fine")
    other = talk.branch()
    talk.user("two").call("done")
    found = judged(talk, other.wait(9).user("three").call("done"))
    assert found.kinds == [Kind.OPENS, Kind.CONTINUES, Kind.FORKS]
    assert len(set(found.sessions)) == 1
    assert found.placements[other.records[0].id].parent == talk.records[0].id


def test_an_answer_given_anew_is_a_fork_beside_its_twin():
    talk = Talk("s").user("one").call("fine", is_kept=False).call("better")
    found = judged(talk)
    assert found.kinds == [Kind.OPENS, Kind.FORKS]
    assert found.placements[talk.records[1].id].parent == talk.records[0].id
    assert len(found.turns) == 2


def test_a_turn_counts_the_answer_that_was_gone_on_with():
    talk = Talk().user("one").call("hm", [("read", {})]).results("ok")
    talk.call("hm", [("read", {"p": 1})], is_kept=False).call("hm", [("read", {"p": 2})])
    found = judged(talk.results("ok").call("done"))
    assert [turn.rounds for turn in found.turns] == [
        {talk.records[n].id: r for n, r in ((0, 1), (2, 2), (3, 3))}
    ]
    assert found.reasons == ["completed"]


@pytest.mark.parametrize("session", [None, "s"])
def test_a_thread_that_opens_with_a_tools_task_is_a_sub_agent(session):
    main = Talk(session).user("go").call("hm", [("agent", {"prompt": "count all the words"})])
    child = Talk(session, at=main.at).user(REMINDER, "count all the words")
    child.call("hm", [("read", {})]).results("ok").call("12 words")
    main.wait(20).results("12 words").call("there are 12")
    found = judged(main, child)
    assert turns_and_rounds(found) == [(0, 1), (1, 1), (1, 2), (0, 2)]
    assert found.placements[child.records[0].id].kind is Kind.SUB_AGENT
    assert found.placements[child.records[0].id].parent == main.records[0].id
    assert len(set(found.sessions)) == 1


def test_the_same_words_as_an_answered_task_open_a_conversation_of_their_own():
    main = Talk().user("go").call("hm", [("agent", {"prompt": "count all the words"})])
    main.results("12 words").call("there are 12")
    other = Talk(at=main.at).user("count all the words").call("what for?")
    assert len(set(judged(main, other).sessions)) == 2


def test_calls_of_a_named_agent_are_its_own_thread():
    main = Talk("s").user("go").call("hm", [("agent", {"prompt": "short"})])
    child = Talk("s", at=main.at)
    hints = {"hints": {"agent_id": "a1"}}
    child.user("short").call("hm", [("read", {})], capture=hints).results("ok")
    child.call("done", capture=hints)
    found = judged(main, child)
    assert turns_and_rounds(found) == [(0, 1), (1, 1), (1, 2)]
    assert found.kinds[1] is Kind.SUB_AGENT


TITLE = {"properties": {"title": {"type": "string"}}}
SIDE_PARAMS = [
    {"output_config": {"format": {"schema": TITLE}}},
    {"response_format": {"json_schema": {"schema": TITLE}}},
    {},
]


@pytest.mark.parametrize("params", SIDE_PARAMS)
def test_a_call_without_tools_beside_a_session_with_tools_is_a_side_call(params):
    side = Talk("s").user("Name this: go").call("Going", request_params=params)
    main = Talk("s", at=side.at).user("go").call("done")
    found = judged(side, main)
    assert found.kinds == [Kind.SIDE, Kind.OPENS]
    assert len(found.turns) == 1


def test_a_call_without_tools_and_without_a_session_is_a_conversation():
    talk = Talk().user("Name this: go").call("Going", request_params={})
    assert judged(talk, Talk(at=talk.at).user("go").call("done")).kinds == [Kind.OPENS, Kind.OPENS]


def test_a_router_shares_the_session_of_the_call_it_was_made_for():
    schema = {"properties": {"complexity_reasoning": {}, "complexity_score": {}}}
    params = {"generationConfig": {"responseJsonSchema": schema}}
    side = Talk().user("go").call("{}", is_kept=False, request_params=params)
    side.call("{}", request_params=params)
    found = judged(side, Talk(at=side.at).user("go").call("done"))
    assert found.kinds == [Kind.SIDE, Kind.SIDE, Kind.OPENS]
    assert len(set(found.sessions)) == 1


def test_a_request_for_a_summary_is_a_side_call_whatever_its_tools():
    talk = Talk("s").user("go").call("done").user("CRITICAL: Respond with TEXT ONLY. Do NOT call")
    found = judged(talk.call("a summary", is_kept=False))
    assert found.kinds == [Kind.OPENS, Kind.SIDE]
    assert found.reasons == ["completed"]


@pytest.mark.parametrize(("typed", "where"), [([], (0, 2)), (["next"], (1, 1))])
def test_a_compacted_history_continues_its_thread(typed, where):
    talk = Talk("s").user("go").call("hm", [("read", {})])
    short = Talk("s", at=talk.at).user(SUMMARY)
    for text in typed:
        short.user(text)
    found = judged(talk, short.call("done"))
    assert turns_and_rounds(found) == [(0, 1), where]
    assert found.kinds[1] is Kind.COMPACTED


def test_a_resumed_history_with_other_texts_is_found_by_its_tool_calls():
    talk = Talk().user("go").call("hm", [("read", {})]).results("ok").call("done")
    talk.messages[0]["content"] = "something else"
    talk.messages.insert(3, dict(talk.messages[2]))
    found = judged(talk.user("next").call("fine"))
    assert turns_and_rounds(found)[-1] == (1, 1)
    assert len(set(found.sessions)) == 1


def test_a_predecessor_that_is_named_is_followed():
    talk = Talk().user("go").call("hm", [("read", {})], capture={"response_id": "resp_1"})
    call = talk.messages[-1]["tool_calls"][0]["id"]
    talk.messages = [{"type": "function_call_output", "call_id": call, "output": "ok"}]
    partial = {"context": "partial"}
    params = {"previous_response_id": "resp_1"}
    found = judged(talk.call("done", capture=partial, request_params=params))
    assert turns_and_rounds(found) == [(0, 1), (0, 2)]


@pytest.mark.parametrize("label", ["t-1", "7d44b70d-3ff9-4e7a-9a22-3f3a4f3e7a11"])
def test_a_turn_label_wins_over_what_the_history_says(label):
    said = {"capture": {"turn_label": label}}
    talk = Talk("s").user("one").call("hm", **said).user("more of it").call("done", **said)
    found = judged(talk.user("two").call("fine", capture={"turn_label": "t-2"}))
    assert turns_and_rounds(found) == [(0, 1), (0, 2), (1, 1)]
    assert found.turns[0].id == turn_id(None, "s", label)


def test_projects_do_not_share_sessions():
    talks = [
        Talk("s").user("go").call("hm", [("read", {})], project_id=name) for name in ("a", "b")
    ]
    assert len(judged(*talks).turns) == 2


def test_facts_and_placements_survive_json():
    talk = Talk("s").user("go").call("hm", [("read", {"p": "x" * 20})]).results("Error: no")
    talk.call(None, capture={"turn_label": "t", "response_id": "r"}, labels={"round-cap": "3"})
    for record in talk.records:
        facts = link_of(record, DIGESTS).facts
        assert Facts.from_json(json.loads(orjson.dumps(facts.as_json()))) == facts
    for placement in judged(talk).placements.values():
        assert Placement.from_json(json.loads(orjson.dumps(placement.as_json()))) == placement


def test_facts_hold_no_text_of_the_conversation():
    talk = Talk("s").user("a secret question").call("a secret answer", [("read", {"p": "secret"})])
    talk.results("a secret result").call("Error: secret", finish_reason="secret")
    for record in talk.records:
        assert b"secret" not in orjson.dumps(link_of(record, DIGESTS).facts.as_json())


def test_a_message_added_to_one_that_got_no_answer_begins_a_turn():
    talk = Talk().user("a long story").call("Once", outcome="client_disconnected")
    talk.messages[-1] = {"role": "user", "content": [{"text": "a long story"}, {"text": "shorter"}]}
    found = judged(talk.call("A fox."))
    assert turns_and_rounds(found) == [(0, 1), (1, 1)]
    assert len(set(found.sessions)) == 1
    assert found.reasons == ["user_aborted", "completed"]


def test_a_person_may_write_on_before_the_cut_stream_is_closed():
    talk = Talk().user("a long story").call("Once", outcome="client_disconnected", seconds=30)
    talk.wait(-29).user("shorter").call("A fox.")
    assert len(set(judged(talk).sessions)) == 1


def test_sub_agents_with_the_same_task_go_to_their_own_parents_in_turn():
    task = {"prompt": "count all the words"}
    mains = [Talk().wait(n / 10).user(f"go {n}").call("hm", [("agent", task)]) for n in range(3)]
    children = []
    for number, main in enumerate(mains):
        child = Talk(at=main.at).wait(1 + number / 10).user("count all the words").call("12")
        children.append(child)
        main.wait(9).results("12").call("done")
    found = judged(*mains, *children)
    parents = [found.placements[child.records[0].id].parent for child in children]
    assert parents == [main.records[0].id for main in mains]


def test_a_task_may_stand_between_lines_with_words_about_it_around():
    main = Talk().user("go").call("hm", [("helper", {"task": "count all the words"})])
    asked = "You are a helper.\n---\nTask:\ncount all the words\n---\nBe thorough."
    child = Talk(at=main.at).user(asked).call("12")
    found = judged(main.wait(9).results("12").call("done"), child)
    assert found.placements[child.records[0].id].kind is Kind.SUB_AGENT


def test_a_title_call_without_a_session_belongs_to_the_conversation_it_names():
    schema = {"type": "object", "properties": {"title": {"type": "string"}}}
    asks = {"output_config": {"format": {"type": "json_schema", "schema": schema}}, "tools": []}
    title = Talk().user("<session>\ngo on\n</session>").call("{}", request_params=asks)
    main = Talk().wait(1).user(REMINDER, "go on").call("fine")
    found = judged(title, main)
    assert found.kinds == [Kind.SIDE, Kind.OPENS]
    assert len(set(found.sessions)) == 1


def test_a_compaction_without_a_session_is_known_by_the_end_of_its_summary():
    told = "Both files were read; what is left to do is to read the third one and to report."
    talk = Talk().user("look at all").call("hm", [("read", {"p": 1})]).results("ok")
    talk.user("You are performing a CONTEXT CHECKPOINT COMPACTION.")
    talk.call(told, request_params={})
    talk.messages = []
    talk.user("look at all").user(f"Another language model started to solve it:\n{told}")
    found = judged(talk.call("hm", [("read", {"p": 3})]).results("ok").call("done"))
    assert found.kinds == [Kind.OPENS, Kind.SIDE, Kind.COMPACTED, Kind.CONTINUES]
    assert turns_and_rounds(found) == [(0, 1), None, (0, 2), (0, 3)]


def test_a_billing_header_that_changes_does_not_make_another_program():
    talk = Talk().user("one")
    for number in range(2):
        instructions = f"x-anthropic-billing-header: cch={number};\n\nBe careful."
        outcome = "complete" if number else "upstream_error"
        talk.call("fine", outcome=outcome, system_prompt=instructions)
    assert turns_and_rounds(judged(talk)) == [(0, 1), (0, 1)]
