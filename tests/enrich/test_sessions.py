"""Who made a call: the order of sources, foreign metadata, client names."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import labels as names
from proxy.call import Prompt
from proxy.enrich.sessions import LABELS_MAX, VALUE_CHARS_MAX, Identity, identify
from proxy.exchange import Headers, Labels, Start


def start(headers: Headers = (), **said: Any) -> Start:
    return Start(
        UUID(int=1), 0, "openai", "openai", "responses", "POST", "/", headers, Labels(**said)
    )


def test_nothing_said_gives_an_empty_identity() -> None:
    assert identify(start(), Prompt()) == Identity()


def test_session_sources_win_in_the_published_order() -> None:
    headers = (("session-id", "agent"), ("x-litellm-session-id", "alias"))
    prompt = Prompt(session_hint="body")
    said = start(headers, session="ours", session_source="path")
    found = [
        identify(said, prompt),
        identify(start(headers), prompt),
        identify(start(headers[:1]), prompt),
        identify(start(), prompt),
        identify(start(), Prompt()),
    ]
    assert [(one.session, one.session_source) for one in found] == [
        ("ours", "path"),
        ("alias", "alias"),
        ("agent", "agent"),
        ("body", "agent"),
        (None, None),
    ]


@pytest.mark.parametrize("name", names.SESSION_ALIASES)
def test_each_alias_header_names_the_session(name: str) -> None:
    found = identify(start(((name, "s-1"),)), Prompt())
    assert (found.session, found.session_source) == ("s-1", "alias")


@pytest.mark.parametrize("name", names.SESSION_AGENTS)
def test_each_agents_own_header_names_the_session(name: str) -> None:
    found = identify(start(((name, " s-1 "),)), Prompt())
    assert (found.session, found.session_source) == ("s-1", "agent")


def test_litellm_trace_wins_over_its_session() -> None:
    headers = (("x-litellm-session-id", "session"), ("x-litellm-trace-id", "trace"))
    assert identify(start(headers), Prompt()).session == "trace"


def test_an_empty_header_names_nothing() -> None:
    found = identify(start((("session-id", "  "), ("thread-id", "t"))), Prompt())
    assert found.session == "t"


def test_our_own_labels_are_taken_as_they_are() -> None:
    said = start(project="shop", turn="t1", chat_mode="plan", turn_intent="action")
    found = identify(said, Prompt())
    assert (found.project, found.turn, found.turn_source) == ("shop", "t1", "label")
    assert (found.chat_mode, found.turn_intent) == ("plan", "action")


CODEX = {
    "turn_id": "01a20930-6cb1-7a72-91b8-b7fe378ce4f1",
    "request_kind": "compaction",
    "forked_from_thread_id": "old-thread",
    "window_number": 3,
    "deep": {"a": [1]},
}


def test_codex_turn_metadata_gives_turn_hints_and_a_label() -> None:
    header = ("x-codex-turn-metadata", orjson.dumps(CODEX).decode())
    found = identify(start((header,)), Prompt())
    assert (found.turn, found.turn_source) == (CODEX["turn_id"], "agent")
    assert found.hints.request_kind == "compaction"
    assert found.hints.forked_from == "old-thread"
    assert found.labels == {"codex_turn_metadata": CODEX | {"deep": '{"a":[1]}'}}


def test_our_turn_label_wins_over_codex() -> None:
    header = ("x-codex-turn-metadata", orjson.dumps(CODEX).decode())
    found = identify(start((header,), turn="mine"), Prompt())
    assert (found.turn, found.turn_source) == ("mine", "label")


def test_claude_codes_sub_agent_headers_become_hints_and_labels() -> None:
    headers = (("x-claude-code-agent-id", "a1"), ("x-claude-code-parent-agent-id", "a0"))
    found = identify(start(headers), Prompt())
    assert (found.hints.agent_id, found.hints.parent_agent_id) == ("a1", "a0")
    assert found.labels == {"agent_id": "a1", "parent_agent_id": "a0"}


@pytest.mark.parametrize(
    ("headers", "labels"),
    [
        ((("helicone-property-env", "prod"),), {"env": "prod"}),
        ((("helicone-user-id", "ann"),), {"user": "ann"}),
        ((("x-bf-dim-team", "red"),), {"team": "red"}),
        ((("x-litellm-tags", "a, b,,c"),), {"tags": ["a", "b", "c"]}),
        ((("x-portkey-metadata", '{"env": "prod", "n": 1}'),), {"env": "prod", "n": 1}),
        ((("x-portkey-metadata", "no json"),), {}),
        ((("x-portkey-metadata", "{broken"),), {}),
        ((("x-codex-turn-metadata", "{broken"),), {"codex_turn_metadata": "{broken"}),
        ((("x-codex-turn-metadata", "[1]"),), {"codex_turn_metadata": "[1]"}),
        ((("helicone-property-", "nameless"),), {}),
        ((("accept", "text/plain"),), {}),
        # A header is read as ISO-8859-1; what was sent as UTF-8 is shown as it was meant.
        ((("helicone-property-city", "ZÃ¼rich"),), {"city": "Zürich"}),
        ((("helicone-property-city", "Z\xfcrich"),), {"city": "Zürich"}),
        ((("x-portkey-metadata", '{"city": "ZÃ¼rich"}'),), {"city": "Zürich"}),
    ],
)
def test_foreign_headers_become_labels(headers: Headers, labels: dict[str, Any]) -> None:
    assert identify(start(headers), Prompt()).labels == labels


def test_persons_named_in_the_body_become_labels_and_ours_win() -> None:
    prompt = Prompt(labels=(("user", "ann"), ("safety_identifier", "h4sh")))
    found = identify(start(extra=(("user", "bob"),)), prompt)
    assert found.labels == {"user": "bob", "safety_identifier": "h4sh"}
    assert found.session is None


def test_labels_are_bounded_in_number_and_size() -> None:
    many = orjson.dumps({f"k{n}": "v" * 5000 for n in range(3)}).decode()
    metadata = (("x-portkey-metadata", many),)
    extra = tuple((f"label-{n}", "v") for n in range(LABELS_MAX * 2))
    found = identify(start(metadata), Prompt()).labels
    assert {len(str(value)) for value in found.values()} == {VALUE_CHARS_MAX}
    assert len(identify(start(metadata, extra=extra), Prompt()).labels) == LABELS_MAX


def test_over_long_metadata_is_not_parsed() -> None:
    metadata = (("x-portkey-metadata", '{"a": "' + "x" * 20_000 + '"}'),)
    assert identify(start(metadata), Prompt()).labels == {}


@pytest.mark.parametrize(
    ("agent", "client"),
    [
        ("claude-cli/2.1.197 (external, sdk-cli)", "claude-cli/2.1.197"),
        ("OpenAI/Python 2.54.0", "OpenAI/Python 2.54.0"),
        ("Agents/Python 0.20.0", "Agents/Python 0.20.0"),
        (
            "codex_exec/0.169.0 (Debian 12.0.0; x86_64) dumb (codex_exec; 0.169.0)",
            "codex_exec/0.169.0",
        ),
        ("GeminiCLI-tui/0.61.0/gemini-2.5-flash (linux; x64; terminal)", "GeminiCLI-tui/0.61.0"),
        ("google-genai-sdk/1.41.0 gl-python/3.13.3", "google-genai-sdk/1.41.0"),
        ("Boto3/1.36.5 md/Botocore#1.36.5 ua/2.0", "Boto3/1.36.5"),
        ("Anthropic::Client/Ruby 1.55.0", "Anthropic::Client/Ruby 1.55.0"),
        ("Ruby", "Ruby"),
        ("();", None),
    ],
)
def test_client_is_a_short_name_and_version(agent: str, client: str | None) -> None:
    assert identify(start((("user-agent", agent),)), Prompt()).client == client


def test_client_falls_back_to_originator_and_app() -> None:
    headers = (("x-app", "cli"), ("originator", "codex_exec"))
    assert identify(start(headers), Prompt()).client == "codex_exec"
    assert identify(start(headers[:1]), Prompt()).client == "cli"


NAMES = st.sampled_from(
    [
        *("x-portkey-metadata", "x-codex-turn-metadata", "x-litellm-tags", "user-agent"),
        *("session-id", "helicone-property-x", "x-bf-dim-y"),
    ]
)
VALUES = st.one_of(
    st.text(),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    ).map(json.dumps),
)


@pytest.mark.parametrize("name", ["x-portkey-metadata", "x-codex-turn-metadata"])
@pytest.mark.parametrize("depth", [300, 1000, 5000])
def test_metadata_that_is_nested_without_end_gives_an_identity(name: str, depth: int) -> None:
    value = '{"a": ' + "[" * depth + "]" * depth + ', "b": 1}'
    found = identify(start(((name, value),)), Prompt())
    assert len(json.dumps(found.labels)) < 20_000


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_any_headers_give_an_identity_of_bounded_size(headers: list[tuple[str, str]]) -> None:
    """Whatever the headers hold: no exception, and labels stay within their bounds."""
    found = identify(start(tuple(headers)), Prompt())
    assert len(found.labels) <= LABELS_MAX
    assert all(len(name) <= 64 for name in found.labels)
    assert len(found.client or "") <= 100
