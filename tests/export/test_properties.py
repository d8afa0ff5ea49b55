"""What holds for every data set, over conversations that nobody thought up."""

import asyncio
import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.environment import load
from proxy.export.formats import Format
from proxy.export.tree import Wanted
from proxy.exporting import Options
from proxy.exporting import export as written
from tests.database import connected
from tests.export.checks import CHECKS, messages_of
from tests.export.conftest import filled
from tests.turns.scripts import Talk

# What may happen next in a conversation: a turn that ends well, or one that does not.
GOOD = ("plain", "tool", "two tools")
BAD = ("cut", "failed", "open", "empty", "limit", "refused")
STEPS = st.sampled_from((*GOOD * 3, *BAD, "again", "compacted", "retried"))
TALKS = st.lists(
    st.tuples(
        st.sampled_from([None, "s", "t"]),
        st.integers(0, 2),  # the opening words: often the same
        st.lists(STEPS, min_size=1, max_size=6),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)
SUMMARY = (
    "This session is being continued from a previous conversation that ran out of context. "
    "The conversation is summarized below: x"
)
TABLES = "agent_telemetry, agent_links, agent_link_keys"


def talk_of(number, session, opening, steps, has_ids):
    """A conversation step by step; words of turns that go wrong are marked."""
    talk = Talk(session and f"{session}{number % 2}", has_ids=has_ids).wait(number * 7)
    for step, kind in enumerate(steps):
        said = f"hello {opening}" if step == 0 else f"question {step}"
        said = f"BAD {said}" if kind in BAD else said
        STEP[kind](talk, said)
    return talk


def _turn(answer):
    def step(talk, said):
        answer(talk.user(said))

    return step


def _again(talk, said):
    talk.user(said).call("first answer", is_kept=False).wait(2).call("second answer")


def _compacted(talk, said):
    summary = (
        "This session is being continued from a previous conversation that ran out of context."
    )
    talk.messages = [
        {"role": "user", "content": f"{summary} The conversation is summarized below: x"}
    ]
    talk.user(said).call("after the summary")


STEP = {
    "plain": _turn(lambda t: t.call("fine")),
    "tool": _turn(lambda t: t.call("hm", [("read", {"a": 1})]).results("x").call("done")),
    "two tools": _turn(
        lambda t: (
            t.call(None, [("read", {}), ("read", {"b": 2})]).results("x", "Error: y").call("ok")
        )
    ),
    "cut": _turn(lambda t: t.call("BAD half", outcome="client_disconnected")),
    "failed": _turn(lambda t: t.call(None, outcome="upstream_error", status=500)),
    "open": _turn(lambda t: t.call("BAD open", [("read", {})]).results("BAD result")),
    "empty": _turn(lambda t: t.call(None)),
    "limit": _turn(lambda t: t.call("BAD limit", finish_reason="length")),
    "refused": _turn(lambda t: t.call("BAD refused", finish_reason="refusal")),
    "retried": _turn(lambda t: t.call(None, outcome="upstream_reset").call("at last")),
    "again": _again,
    "compacted": _compacted,
}


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(talks=TALKS)
@example(talks=[(None, 0, ["cut", "again"], False)])
@example(talks=[(None, 0, ["failed", "again", "plain"], True)])
def test_only_completed_turns_and_no_example_begins_another(dsn, talks):
    """No word of a turn that did not complete; no example is the beginning of another."""
    talks = [talk_of(number, *each) for number, each in enumerate(talks)]
    config = load(None, {"HOME": "/", "DATABASE_URL": dsn})

    async def made():
        async with connected(dsn) as connection:
            await connection.execute(f"TRUNCATE {TABLES}")
        await filled(dsn, [row for talk in talks for row in talk.records])
        with tempfile.TemporaryDirectory() as folder:
            found = {}
            for name in ("openai", "anthropic", "gemini", "sharegpt"):
                out = Path(folder) / name
                await written(config, Options(Format(name), out, wanted=Wanted()))
                found[name] = [json.loads(line) for line in out.read_text().splitlines()]
            return found

    found = asyncio.run(made())
    for name, lines in found.items():
        conversations = [messages_of(line) for line in lines]
        for line in lines:
            CHECKS[name](line)
            assert "BAD" not in json.dumps(line)
        for number, one in enumerate(conversations):
            for other in conversations[:number] + conversations[number + 1 :]:
                assert other[: len(one)] != one
    has_good = any(talk.records[0].response_text in ("fine", "second answer") for talk in talks)
    assert found["openai"] or not has_good
