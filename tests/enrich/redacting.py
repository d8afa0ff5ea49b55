"""What is redacted in tests: records, and credentials of no known shape."""

from __future__ import annotations

import random
import string
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

from proxy.config import Redaction
from proxy.enrich.redact import Redactor
from proxy.enrich.redact_rules import PII
from proxy.exchange import Secret, Start
from proxy.record import TelemetryRecord

SALT = "5a" * 32
CREDENTIAL = "[REDACTED:credential]"
EVERY_PII = Redaction(pii=tuple(rule.name for rule in PII))  # type: ignore[arg-type] # names as data
A = string.ascii_letters + string.digits
rng = random.Random(7)


def some(length: int, alphabet: str = A) -> str:
    return "".join(rng.choices(alphabet, k=length))


def secret(text: str) -> Secret:
    digest = blake2b(text.encode(), key=bytes.fromhex(SALT), digest_size=16).hexdigest()
    return Secret(len(text), digest)


def start(*credentials: str) -> Start:
    found = tuple(secret(text) for text in credentials)
    return Start(UUID(int=1), 0, "u", "openai", "e", "POST", "/", salt=SALT, secrets=found)


def record(**columns: Any) -> TelemetryRecord:
    return TelemetryRecord(UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC), "model-1", 5, **columns)


def redact(
    redactor: Redactor, given_record: TelemetryRecord, begun: Start
) -> tuple[TelemetryRecord, dict[str, int]]:
    """The record without secrets, and how often each rule matched."""
    scan = redactor.scan(begun)
    return scan.record(given_record), dict(scan.counts)


def redacted(text: str, *credentials: str, config: Redaction | None = None) -> str:
    found, _ = redact(
        Redactor(config or Redaction()), record(response_text=text), start(*credentials)
    )
    assert found.response_text is not None
    return found.response_text


# A credential of no known shape, with characters that escapes change.
KEY = "Zq7+Lk/9w2" + some(30) + "=="
