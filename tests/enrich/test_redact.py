"""Redaction of whole records: what is remembered, what the operator adds, what must stay."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.call import Json
from proxy.config import Redaction
from proxy.enrich import redact as redact_module
from proxy.enrich.credentials import Credentials
from proxy.enrich.digests import Digests
from proxy.enrich.redact import DEPTH_MAX, Redactor, metadata_only
from proxy.errors import ConfigError
from proxy.record import TelemetryRecord
from tests.enrich.redacting import (
    CREDENTIAL,
    EVERY_PII,
    KEY,
    SALT,
    record,
    redact,
    redacted,
    secret,
    some,
    start,
)
from tests.enrich.test_redact_rules import EXAMPLES


def test_names_that_differ_still_do_once_what_is_personal_is_taken_out() -> None:
    """Sessions are named by telephone numbers and addresses; two must never become one."""
    redactor = Redactor(EVERY_PII, Digests(b"a secret"))

    def named(number: str) -> TelemetryRecord:
        given = record(session_id=number, project_id=f"p {number}", capture={"turn_label": number})
        return redact(redactor, given, start())[0]

    one, other = named("+49 30 901820"), named("+49 30 901821")
    assert one.session_id is not None
    assert one.session_id.startswith("[REDACTED:phone]-")
    assert one.capture == {"turn_label": one.session_id}
    assert one.session_id != other.session_id
    assert one.project_id != other.project_id
    assert one == named("+49 30 901820")
    assert redact(redactor, one, start())[0] == one
    elsewhere = Redactor(EVERY_PII, Digests(b"another secret")).scan(start())
    assert elsewhere.name("+49 30 901820") not in (one.session_id, "[REDACTED:phone]")


def test_a_history_sent_again_gives_the_same_result_and_counts() -> None:
    redactor = Redactor(Redaction())
    history: list[Json] = [{"role": "user", "content": f"use ghp_{some(36)} please"}]
    first = redact(redactor, record(chat_history=history), start())
    again = redact(redactor, record(chat_history=[*history, {"role": "user"}]), start())
    assert again[0].chat_history[:1] == first[0].chat_history
    assert again[1] == first[1] == {"github_token": 1}


def test_the_memory_of_results_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact_module, "CACHE_ENTRIES_MAX", 3)
    monkeypatch.setattr(redact_module, "CACHE_BYTES_MAX", 4000)
    redactor = Redactor(Redaction())
    texts = [f"ghp_{some(36)} " + "x" * size for size in (100, 200, 600, 900, 5000, 300)]
    for text in [*texts, *texts]:
        found, counts = redact(redactor, record(response_text=text), start())
        assert found.response_text == "[REDACTED:github_token]" + text[40:]
        assert counts == {"github_token": 1}
    assert len(redactor._seen._results) <= 3


@pytest.mark.parametrize("odd", ["\ud800", "\0", 2**80])
def test_messages_that_cannot_be_remembered_are_redacted_all_the_same(odd: Json) -> None:
    history: list[Json] = [{"odd": odd, "content": f"{KEY} ghp_{some(36)}"}]
    found, counts = redact(Redactor(Redaction()), record(chat_history=history), start(KEY))
    content = "[REDACTED:credential] [REDACTED:github_token]"
    assert found.chat_history == [{"odd": odd, "content": content}]
    assert counts == {"credential": 1, "github_token": 1}


def test_a_result_too_heavy_to_be_remembered_is_worked_out_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redact_module, "CACHE_BYTES_MAX", 100)
    redactor = Redactor(Redaction())
    for _ in range(2):
        found, counts = redact(redactor, record(response_text=f"{KEY} {'x' * 100}"), start(KEY))
        assert (found.response_text, counts) == (f"{CREDENTIAL} {'x' * 100}", {"credential": 1})
    assert not redactor._seen._results


def test_names_that_become_alike_keep_their_values() -> None:
    one, two = f"ghp_{some(36)}", f"ghp_{some(36)}"
    labels: dict[str, Json] = {one: 1, two: 2, "[REDACTED:github_token]#2": 3}
    found, _ = redact(Redactor(Redaction()), record(labels=labels), start())
    assert found.labels is not None
    assert sorted(found.labels.values()) == [1, 2, 3]  # type: ignore[type-var] # all are int


def test_what_lies_too_deep_is_replaced() -> None:
    value: Json = KEY
    for _ in range(DEPTH_MAX + 5):
        value = [value]
    found, counts = redact(
        Redactor(Redaction()), record(request_params={"a": {"b": value}}), start(KEY)
    )
    assert KEY not in str(found)
    assert counts == {"too_deep": 1}


def test_numbers_and_empty_columns_stay_as_they_are() -> None:
    given_record = record(usage={"n": 2**70, "x": 1.5}, labels={}, tool_calls=None, chat_history=[])
    assert redact(Redactor(Redaction()), given_record, start(KEY)) == (given_record, {})


def test_switched_off_rules_still_leave_no_credential() -> None:
    text = f"{KEY} ghp_{some(36)}"
    found = redacted(text, KEY, config=Redaction(enabled=False))
    assert found == "[REDACTED:credential]" + text[len(KEY) :]


def test_the_operators_rules_apply() -> None:
    own = Redaction(
        rules=(
            {"name": "ticket", "pattern": r"ACME-[0-9]{4}"},
            {"name": "who", "pattern": "user=(\\w+)"},
        )
    )
    assert redacted("ACME-1234 user=ann", config=own) == "[REDACTED:ticket] user=[REDACTED:who]"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"name": "a", "pattern": r"(a"}, "a: RE2 does not accept"),
        ({"name": "b", "pattern": r"(?=x)y"}, "b: RE2 does not accept"),
        ({"name": "c", "pattern": r"x*"}, "c: the pattern matches the empty text"),
        ({"name": "d e", "pattern": "x"}, "d e: use letters"),
        ({"pattern": "x"}, "rule 1: write each rule as"),
        ({"name": "f", "pattern": "x", "flags": "i"}, "f: write each rule as"),
    ],
)
def test_rules_that_cannot_be_used_are_refused_by_name(rule: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Redactor(Redaction(rules=(rule,)))
    assert said in str(error.value)


@pytest.mark.parametrize("pattern", ["REDACTED", r"\w+", r"(?s).+", r"[^\n]", "own"])
def test_marks_are_never_taken_apart(pattern: str) -> None:
    redactor = Redactor(Redaction(rules=({"name": "own", "pattern": pattern},)))
    once, _ = redact(redactor, record(response_text=f"x ghp_{some(36)} y"), start())
    again, counts = redact(redactor, once, start())
    assert (again, counts) == (once, {})


def test_credential_glued_to_a_long_secret_of_another_kind_is_found() -> None:
    glued = KEY + "sk-ant-api03-" + some(300)
    once, counts = redact(REDACTOR, record(user_message=glued), start(KEY))
    assert KEY not in str(once)
    assert counts["credential"] == 1


SHAPES = st.sampled_from(
    [text.replace("«", "").replace("»", "") for text in EXAMPLES.values()] + [KEY, quote(KEY)]
)
TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(codec=None, exclude_categories=()), max_size=30),
        SHAPES,
        st.sampled_from(["[REDACTED:", "]", "=", ":", "@", "\\", "%2", "://", " "]),
    ),
    max_size=8,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=3), TEXTS)
def test_redaction_is_idempotent_and_total(texts: list[str], name: str) -> None:
    """Any strings, NUL and lone surrogates included: no exception, and a second pass is idle."""
    history: list[Json] = [{"role": "user", name: text} for text in texts]
    once, _ = redact(
        REDACTOR, record(chat_history=history, user_message="".join(texts)), start(KEY)
    )
    again, counts = redact(REDACTOR, once, start(KEY))
    assert (again, counts) == (once, {})
    assert KEY not in str(once)


REDACTOR = Redactor(EVERY_PII)
MEGABYTE = 1_000_000
HOSTILE = [
    "a",
    "^",
    "_",
    " ",
    "%41",
    "\\n",
    "a/",
    "sk-",
    "eyJ",
    "1.2.3.4.",
    "1234 ",
    "AKIA",
    "xoxb-",
    "ghp_a ",
    "://a:b",
    "a@",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_megabyte_of_near_misses_comes_through_unchanged(unit: str) -> None:
    text = (unit * MEGABYTE)[:MEGABYTE]
    scrubbed = Credentials(SALT, (secret(KEY), secret(some(16)))).scrub(text)
    assert scrubbed == (text, 0)
    assert redacted(text) == text


def test_a_megabyte_of_random_letters_still_gives_up_its_credential() -> None:
    text = f"{some(MEGABYTE // 2)} {KEY} {some(MEGABYTE // 2)}"
    assert redacted(text, KEY) == text.replace(KEY, "[REDACTED:credential]")


def test_metadata_only_keeps_no_content() -> None:
    full = record(
        system_prompt="CONTENT",
        chat_history=[{"role": "user", "content": "CONTENT"}],
        user_message="CONTENT",
        response_text="CONTENT",
        response_thoughts="CONTENT",
        tool_calls=[
            {"id": "c1", "name": "grep", "arguments": {"q": "CONTENT"}, "raw": "CONTENT"},
            "CONTENT",
        ],
        tool_results=[{"id": "c1", "name": "grep", "is_error": False, "output": "CONTENT"}],
        request_params={"tools": ["CONTENT"]},
        error="the prompt CONTENT was refused",
        outcome="upstream_error",
        capture={"choices": [{"text": "CONTENT"}], "request_bytes": 7},
        labels={"env": "prod"},
        prompt_tokens=3,
        session_id="s",
    )
    found = metadata_only(full)
    assert "CONTENT" not in str(found)
    assert found.tool_calls == [{"id": "c1", "name": "grep", "arguments": None}]
    assert found.tool_results == [{"id": "c1", "name": "grep", "is_error": False, "output": None}]
    assert found.capture == {"request_bytes": 7, "content": "metadata"}
    assert (found.prompt_tokens, found.session_id, found.labels) == (3, "s", {"env": "prod"})
    assert metadata_only(full, with_labels=False).labels is None


def test_metadata_only_keeps_the_gateways_own_errors() -> None:
    found = metadata_only(record(error="connection refused", outcome="upstream_unreachable"))
    assert found.error == "connection refused"
    assert (found.tool_calls, found.system_prompt, found.chat_history) == (None, "", [])


def test_a_text_that_is_the_json_of_a_value_stays_a_text() -> None:
    """Agents write calls' arguments as text; both forms are remembered, each as itself."""
    token = f"ghp_{some(36)}"
    value: Json = {"command": f"export GITHUB_TOKEN={token} and go on with what was asked"}
    text = json.dumps(value, separators=(",", ":"))
    for history in ([value, text], [text, value]):
        redactor = Redactor(Redaction())
        clean, counts = redact(redactor, record(chat_history=history), start())
        assert [type(item) for item in clean.chat_history] == [type(item) for item in history]
        assert token not in json.dumps(clean.chat_history)
        assert sum(counts.values()) == 2
