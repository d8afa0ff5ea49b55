"""Redaction of whole records: rules, personal data, what must stay as it is."""

from __future__ import annotations

import json
import string
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
from proxy.enrich.redact_rules import PII, SECRETS
from proxy.errors import ConfigError
from proxy.record import TelemetryRecord
from tests.enrich.redacting import KEY, SALT, record, redact, redacted, secret, some, start

EVERY_PII = Redaction(pii=tuple(rule.name for rule in PII))  # type: ignore[arg-type] # names as data


# One text per rule; the secret stands between « and ».
CREDENTIAL = "[REDACTED:credential]"
HEX = "0123456789abcdef"
EXAMPLES = {
    "private_key": f"«-----BEGIN RSA PRIVATE KEY-----\n{some(64)}\n-----END RSA PRIVATE KEY-----»",
    "anthropic_key": f"«sk-ant-api03-{some(93)}AA»",
    "openrouter_key": f"«sk-or-v1-{some(64, HEX)}»",
    "openai_key": f"«sk-proj-{some(40)}_-{some(60)}»",
    "api_key": f"«sk-{some(48)}»",
    "google_api_key": f"«AIza{some(35)}»",
    "google_oauth_token": f"«ya29.{some(60)}»",
    "google_client_secret": f"«GOCSPX-{some(28)}»",
    "xai_key": f"«xai-{some(80)}»",
    "groq_key": f"«gsk_{some(52)}»",
    "huggingface_token": f"«hf_{some(34)}»",
    "replicate_token": f"«r8_{some(37)}»",
    "perplexity_key": f"«pplx-{some(48)}»",
    "cerebras_key": f"«csk-{some(48, HEX)}»",
    "fireworks_key": f"«fw_{some(24)}»",
    "nvidia_key": f"«nvapi-{some(64)}»",
    "together_key": f"«tgp_v1_{some(43)}»",
    "langfuse_key": "«sk-lf-1a2b3c4d-5e6f-7a8b-9c0d-1e2f3a4b5c6d»",
    "langsmith_key": f"«lsv2_pt_{some(32, HEX)}_{some(10, HEX)}»",
    "voyage_key": f"«pa-{some(43)}»",
    "tavily_key": f"«tvly-dev-{some(32)}»",
    "firecrawl_key": f"«fc-{some(32, HEX)}»",
    "aws_access_key": f"«AKIA{some(16, string.ascii_uppercase + '234567')}»",
    "aws_bedrock_key": f"«ABSK{some(100)}»",
    "aws_secret_key": f'aws_secret_access_key = "«{some(40)}»"',
    "aws_session_token": f"AWS_SESSION_TOKEN=«{some(120)}»",
    "azure_key": f"AccountName=x;AccountKey=«{some(86)}==»;",
    "azure_sas": f"https://x.blob.core.windows.net/a?sv=1&sig=«{some(43)}%3D»&se=2",
    "azure_client_secret": f"'«abc8Q~{some(34)}»'",
    "digitalocean_token": f"«dop_v1_{some(64, HEX)}»",
    "heroku_key": f"«HRKU-AA{some(58)}»",
    "vault_token": f"«hvs.{some(95)}»",
    "terraform_token": f"«{some(14)}.atlasv1.{some(67)}»",
    "databricks_token": f"«dapi{some(32, HEX)}»",
    "github_token": f"«ghp_{some(36)}»",
    "gitlab_token": f"«glpat-{some(20)}»",
    "bitbucket_token": f"«ATBB{some(32)}»",
    "atlassian_token": f"«ATATT3{some(186)}»",
    "slack_token": f"«xoxb-{some(12, string.digits)}-{some(24)}»",
    "slack_webhook": f"https://hooks.slack.com/services/«T{some(8)}/B{some(8)}/{some(24)}»",
    "discord_webhook": f"https://discord.com/api/webhooks/{some(18, '123')}/«{some(68)}»",
    "telegram_token": f"«1234567890:AA{some(33)}»",
    "stripe_key": f"«sk_live_{some(24)}»",
    "square_token": f"«sq0atp-{some(22)}»",
    "shopify_token": f"«shpat_{some(32, HEX)}»",
    "npm_token": f"«npm_{some(36)}»",
    "pypi_token": f"«pypi-AgEIcHlwaS5vcmc{some(80)}»",
    "rubygems_token": f"«rubygems_{some(48, HEX)}»",
    "docker_token": f"«dckr_pat_{some(27)}»",
    "sendgrid_key": f"«SG.{some(22)}.{some(43)}»",
    "twilio_key": f"«SK{some(32, HEX)}»",
    "mailgun_key": f"«key-{some(32, HEX)}»",
    "mailchimp_key": f"«{some(32, HEX)}-us12»",
    "postman_key": f"«PMAK-{some(24, HEX)}-{some(34, HEX)}»",
    "notion_token": f"«ntn_{some(46)}»",
    "linear_key": f"«lin_api_{some(40)}»",
    "grafana_token": f"«glsa_{some(32)}_{some(8, HEX)}»",
    "newrelic_key": f"«NRAK-{some(27)}»",
    "sentry_token": f"«sntrys_{some(80)}»",
    "doppler_token": f"«dp.pt.{some(43)}»",
    "figma_token": f"«figd_{some(40)}»",
    "pulumi_token": f"«pul-{some(40, HEX)}»",
    "planetscale_token": f"«pscale_pw_{some(43)}»",
    "supabase_token": f"«sbp_{some(40, HEX)}»",
    "age_key": f"«AGE-SECRET-KEY-1{some(58, string.ascii_uppercase + string.digits)}»",
    "jwt": f"«eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.{some(43)}»",
    "connection_string": "DATABASE_URL=postgresql://app:«hunter2!x»@db.internal:5432/shop",
    "authorization": f"curl -H 'Authorization: Bearer «{some(40)}»'",
    "email": "write to «ann.lee+x@mail.example.org» today",
    "card": "paid with «4111 1111 1111 1111» on",
    "iban": "to «DE89 3704 0044 0532 0130 00» now",
    "phone": "call «+49 30 901820-12» or",
    "ip": "from «203.0.113.77» at",
}


@pytest.mark.parametrize("rule", [rule.name for rule in SECRETS + PII])
def test_each_rule_replaces_its_secret_and_nothing_else(rule: str) -> None:
    text = EXAMPLES[rule]
    before, _, rest = text.partition("«")
    _, _, after = rest.partition("»")
    plain = text.replace("«", "").replace("»", "")
    found, counts = redact(Redactor(EVERY_PII), record(response_text=plain), start())
    assert found.response_text == f"{before}[REDACTED:{rule}]{after}"
    assert counts == {rule: 1}


@pytest.mark.parametrize("rule", [rule.name for rule in SECRETS])
@pytest.mark.parametrize(
    "template", ["{}", "key={}", "\n{}\n", '{{"a": "{}"}}', "Ünï {} ✓", "({})"]
)
def test_secrets_are_found_wherever_they_stand(rule: str, template: str) -> None:
    text = EXAMPLES[rule]
    inner = text.partition("«")[2].partition("»")[0]
    plain = template.format(text.replace("«", "").replace("»", ""))
    assert inner not in redacted(plain)
    assert inner not in redacted(json.dumps({"text": plain}, ensure_ascii=False))


CLEAN = [
    "sk-learn is not scikit-learn; a task-specific risk-averse disk-based approach",
    "Use sk-... or sk-xxxxxxxxxxxxxxxxxxxxxxxx or AKIAIOSFODNN7EXAMPLE as a placeholder",
    "postgresql://localhost/db and https://example.org/a:b@c and postgres://user:password@host/db",
    "postgres://${USER}:${PASSWORD}@host/db",
    "Authorization: Bearer <token>; the bearer of this letter",
    "commit 3b18e512dba79e4c8300dd08aeb37f8e728b8dad, uuid 01a20930-6c3d-7f00-9e25-9983cfecfd7e",
    "call_6aUxrbwJhnznOn8ql6heK7K9 toolu_01Lb15KzZHz63KFSjmBpc4Fx chatcmpl-BxYz012345",
    "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    "4111 1111 1111 1112 and 2024-01-15 and 1.2.3 and 12:30:45",
]


@pytest.mark.parametrize("text", CLEAN)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redacted(text, config=EVERY_PII) == text


@pytest.mark.parametrize(
    "text",
    [
        "999.1.1.1",
        "127.0.0.1 ::1 1:2:3",
        "DE00 3704 0044 0532 0130 00",
        "+1 234",
        "5555555555555555",
    ],
)
def test_numbers_that_fail_their_check_are_not_personal_data(text: str) -> None:
    assert redacted(text, config=EVERY_PII) == text


CARD = "4111 1111 1111 1111"
BESIDE = {  # what is written beside a number may look like more of it
    f"{CARD} 12/27 123": "[REDACTED:card] 12/27 123",
    "4111111111111111 123": "[REDACTED:card] 123",
    f"2024 {CARD}": "2024 [REDACTED:card]",
    f"30 1234567 {CARD} 4": "30 1234567 [REDACTED:card] 4",
    f"{CARD} 5500 0000 0000 0004": "[REDACTED:card] [REDACTED:card]",
    "378282246310005 1234": "[REDACTED:card] 1234",
    f"a\\n{CARD}": "a\\n[REDACTED:card]",  # of JSON inside of a text
    "BE68 5390 0754 7034 EUR": "[REDACTED:iban] EUR",
    "AT61 1904 3002 3457 3201 BIC BKAUATWW": "[REDACTED:iban] BIC BKAUATWW",
    "a\\nDE89370400440532013000": "a\\n[REDACTED:iban]",
    "+1 415 555 2671 10001": "[REDACTED:phone] 10001",
    f"+49 30 1234567 {CARD}": "[REDACTED:phone] [REDACTED:card]",
    "jürgen@bücher.example": "[REDACTED:email]",
}


@pytest.mark.parametrize("text", BESIDE)
def test_numbers_are_found_whatever_stands_beside_them(text: str) -> None:
    assert redacted(text, config=EVERY_PII) == BESIDE[text]


def test_a_card_that_is_a_number_in_json_is_found() -> None:
    card = 4111111111111111
    given = record(
        tool_calls=[{"id": "c", "name": "pay", "arguments": {"card": card, "cents": 1999}}],
        request_params={"seed": card, "metadata": [card], "at": 1764183600000},
    )
    found, counts = redact(Redactor(EVERY_PII), given, start())
    assert found.tool_calls == [
        {"id": "c", "name": "pay", "arguments": {"card": "[REDACTED:card]", "cents": 1999}}
    ]
    assert found.request_params == {
        "seed": "[REDACTED:card]",
        "metadata": ["[REDACTED:card]"],
        "at": 1764183600000,
    }
    assert counts == {"card": 3}


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


def test_personal_data_is_left_alone_unless_asked_for() -> None:
    assert redacted("ann@example.org 203.0.113.77") == "ann@example.org 203.0.113.77"
    only = Redaction(pii=("ip",))
    assert redacted("ann@example.org 2001:db8::7", config=only) == "ann@example.org [REDACTED:ip]"


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
