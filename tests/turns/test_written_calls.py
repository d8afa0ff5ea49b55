"""smolagents writes calls and results into texts: they are read as what they are."""

from proxy.decode.prompts import last_user_text
from proxy.enrich.canonical import Called, Result, Said, Typed, parts_of
from proxy.injected import read

CALL = "{'id': 'c1', 'type': 'function', 'function': {'name': 'read', 'arguments': {'path': 'a'}}}"
ASKED = f"I look.\nCalling tools:\n[{CALL}]"
RETRY = "Now let's retry: take care not to repeat previous errors! And so on."


def user(text):
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def model(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def test_calls_and_observations_are_calls_and_results():
    history = [user("New task:\nfind it"), model(ASKED), user("Observation:\nwords")]
    assert list(parts_of(history)) == [
        Typed(("find it",)),
        Said("I look.\n"),
        Called("read", {"path": "a"}, "c1"),
        Result("words", is_error=False, is_text=True),
    ]


def test_a_new_task_stands_behind_the_observation():
    history = [model(ASKED), user("Observation:\nwords\nNew task:\nand now?")]
    assert list(parts_of(history))[2:] == [
        Result("words", is_error=False, is_text=True),
        Typed(("and now?",)),
    ]
    assert last_user_text(history, lambda message: [message["content"][0]["text"]]) == "and now?"


def test_of_a_call_that_failed_only_the_error_is_left():
    history = [user(f"New task:\nfind it\nError:\nno index\n{RETRY}")]
    first, second = parts_of(history)
    assert first == Typed(("find it",))
    assert (second.is_error, second.is_text) == (True, True)


def test_a_person_may_write_such_words():
    for text in ("Observation:\nit rains", "Error:\nwhat is this?"):
        assert read(text).typed == text
        assert list(parts_of([model("Tell me."), user(text)])) == [Said("Tell me."), Typed((text,))]
    mine = read("New task:\nexplain\nError:\nno such file").typed
    assert mine == "explain\nError:\nno such file"


def test_what_only_looks_like_calls_stays_text():
    for written in ("[oops", "[1, 2]", "[{'id': 1}]", "[" * 5000, "[__import__('os')]"):
        text = f"Calling tools:\n{written}"
        assert list(parts_of([model(text)])) == [Said(text)]


def test_code_that_the_model_wrote_is_no_call():
    call = CALL.replace("'read'", "'python_interpreter'")
    (said,) = parts_of([model(f"Thought.\nCalling tools:\n[{call}]")])
    assert said == Said("Thought.\n")
