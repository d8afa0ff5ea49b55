"""The call's own credential is scrubbed, however it is written, and nobody else's."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import UUID

import pytest

from proxy.call import Json
from proxy.config import Redaction
from proxy.enrich import redact as redact_module
from proxy.enrich.redact import Redactor
from proxy.record import TelemetryRecord
from tests.enrich.redacting import KEY, record, redact, redacted, some, start

EMBEDDED = {
    "alone": KEY,
    "assigned": f"key={KEY}",
    "header": f"Authorization: Bearer {KEY}\r\n",
    "quoted": f'{{"api_key":"{KEY}"}}',
    "json in json": json.dumps(json.dumps({"k": f"\n{KEY}\t"})),
    "slash escaped": KEY.replace("/", "\\/"),
    "unicode escaped": KEY.replace("+", "\\u002b").replace("=", "\\u003D"),
    "percent": f"https://host/?key={quote(KEY, safe='')}&x=1",
    "base64": base64.b64encode(f"user:{KEY}".encode()).decode(),
    "base64 url-safe": base64.urlsafe_b64encode(f"Bearer {KEY}".encode()).decode().rstrip("="),
    "glued": f"abc{KEY}def",
    "in a long run": f"{some(3000)}:{KEY},{some(3000)}",
    "escaped in a long run": f"{some(3000)}\\n{KEY}\\n{some(3000)}",
    "twice": f"{KEY} {KEY}",
    "between others": f"Ünï {KEY} ✓ \ud800 \0",
}


@pytest.mark.parametrize("where", EMBEDDED)
def test_the_calls_own_credential_is_scrubbed(where: str) -> None:
    found = redacted(EMBEDDED[where], KEY)
    assert "[REDACTED:credential]" in found
    assert KEY[:12] not in found
    assert KEY[12:30] not in found
    kept = [word for word in ("Ünï", "abc", "def", "key=") if word in EMBEDDED[where]]
    assert all(word in found for word in kept)


@pytest.mark.parametrize("length", [16, 17, 39, 51, 164])
@pytest.mark.parametrize("column", redact_module.TEXT_COLUMNS)
def test_no_text_column_keeps_the_credential(column: str, length: int) -> None:
    key = some(length)
    found, counts = redact(
        Redactor(Redaction()),
        record(**{column: f"a {key} b"}) if column != "model_used" else record_with_model(key),
        start(key),
    )
    assert key not in str(found)
    assert counts["credential"] == 1


def record_with_model(model: str) -> TelemetryRecord:
    return TelemetryRecord(UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC), model, 5)


@pytest.mark.parametrize("column", redact_module.JSON_COLUMNS)
def test_no_json_column_keeps_the_credential(column: str) -> None:
    inner: Json = {"deep": [1, None, True, {KEY: f"x={KEY}"}], "n": 2.5}
    value: Json = (
        [inner]
        if column in ("chat_history", "tool_calls", "tool_results")
        else {"a": inner, "b": [inner]}
    )
    found, counts = redact(Redactor(Redaction()), record(**{column: value}), start(KEY))
    text = json.dumps(getattr(found, column))
    assert KEY not in text
    assert text.count("[REDACTED:credential]") == counts["credential"] >= 2
    marked = "[REDACTED:credential]"
    assert {"deep": [1, None, True, {marked: f"x={marked}"}], "n": 2.5} in (
        getattr(found, column)
        if isinstance(getattr(found, column), list)
        else getattr(found, column).values()
    )


def test_several_credentials_of_one_call_are_all_scrubbed() -> None:
    other = some(24)
    assert redacted(f"{KEY} {other}", KEY, other) == "[REDACTED:credential] [REDACTED:credential]"


def test_a_credential_that_begins_another_is_replaced_with_it() -> None:
    assert redacted(f"a {KEY} b {KEY[:20]} c", KEY, KEY[:20]) == (
        "a [REDACTED:credential] b [REDACTED:credential] c"
    )


@pytest.mark.parametrize("cut", range(4))
def test_a_credential_in_base64_of_any_length_is_found(cut: int) -> None:
    encoded = base64.b64encode(f"user:{KEY}{'x' * 9}".encode()).decode().rstrip("=")
    assert redacted(encoded[: len(encoded) - cut], KEY) == "[REDACTED:credential]"


@pytest.mark.parametrize("placeholder", ["test", "ollama", "EMPTY", "sk-123", "dummy-key-12345"])
def test_placeholder_keys_leave_prompts_unchanged(placeholder: str) -> None:
    text = f"test the ollama client with {placeholder} and {placeholder}{placeholder}"
    assert redacted(text, placeholder) == text


def test_the_credential_of_another_call_is_not_remembered() -> None:
    redactor = Redactor(Redaction())
    text = f"a long enough text to be remembered, with {KEY} in it, for the next round"
    assert KEY not in str(redact(redactor, record(response_text=text), start(KEY))[0])
    assert redact(redactor, record(response_text=text), start())[0].response_text == text
