"""Rules of redaction: each finds its secret or personal data, and nothing in ordinary text."""

from __future__ import annotations

import json
import string

import pytest

from proxy.config import Redaction
from proxy.enrich.redact import Redactor
from proxy.enrich.redact_rules import PII, SECRETS
from tests.enrich.redacting import (
    EVERY_PII,
    record,
    redact,
    redacted,
    some,
    start,
)

HEX = "0123456789abcdef"
# One text per rule; the secret stands between « and ».
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
    f"{'1000 ' * 23}{CARD}": f"{'1000 ' * 23}[REDACTED:card]",  # as in a table
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


def test_personal_data_is_left_alone_unless_asked_for() -> None:
    assert redacted("ann@example.org 203.0.113.77") == "ann@example.org 203.0.113.77"
    only = Redaction(pii=("ip",))
    assert redacted("ann@example.org 2001:db8::7", config=only) == "ann@example.org [REDACTED:ip]"
