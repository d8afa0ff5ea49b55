"""How long the worst megabyte takes in each rule of redaction, in all rules, and in the tokenizer.

    python bench/hostile_text.py

Texts are made to keep a search busy: long runs, near misses of every rule's keywords, nested
beginnings without an end. Prints a Markdown table, the slowest text first for each step.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from uuid import UUID

from proxy.config import Redaction
from proxy.enrich.redact import Redactor
from proxy.enrich.redact_rules import PII, SECRETS
from proxy.enrich.ruleset import RuleSet
from proxy.enrich.tokens import TokenCounter
from proxy.exchange import Secret, Start

SIZE = 1_000_000
KEYS = (
    *("sk-ant-", "sk-proj-", "AIza", "AKIA", "ghp_", "xoxb-", "eyJ", "password=", "postgres://a:"),
    *("-----BEGIN RSA PRIVATE KEY-----\n", "aws_secret_access_key=", "AccountKey=", "1//0", "hf_"),
    *("SG.", "EAAA", ":AA", "-us1", "Authorization: Bearer ", "@", "DE89", "+49 170 ", "10.", "::"),
)
MATCHES = (
    *("10.1.2.3", "2001:db8::1", "a@b.example", "4111 1111 1111 1111", "DE89370400440532013000"),
    *("+49 170 1234567", "ghp_" + "aB3d" * 9, "AKIAQ2W3E4R5T6Y7U2I3", "https://u:aB3dE5@h/x"),
)


def texts() -> Iterator[tuple[str, str]]:
    """Name and text of each."""
    rng = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    yield "one letter", "a" * SIZE
    yield "digits", "4" * SIZE
    yield "spaces", " " * SIZE
    yield "line ends", "\n" * SIZE
    yield "letters and digits", "".join(rng.choices(letters, k=SIZE))
    yield "words", " ".join("".join(rng.choices(letters, k=7)) for _ in range(SIZE // 8))
    yield "base64 with signs", "".join(rng.choices(letters + "+/=-_", k=SIZE))
    yield "escapes", "\\n%2F\\u0041" * (SIZE // 11)
    yield "unpaired surrogates", "\ud800" * (SIZE // 3)
    yield "emoji", "👩‍👩‍👧" * (SIZE // 18)
    yield "Chinese", "的一是不了人我在有他这为之" * (SIZE // 39)
    yield "marks", "[REDACTED:openai_key]" * (SIZE // 21)
    yield "numbers with blanks", "4111 1111 1111 1112 " * (SIZE // 20)
    groups = " ".join(f"{rng.randrange(10_000):04}" for _ in range(SIZE // 5))
    yield "groups of four digits", groups
    yield "addresses", "1:2:3:4:5:6:7:8::" * (SIZE // 17)
    for key in KEYS:
        yield f"{key.strip()} again and again", key * (SIZE // len(key))
        run = key + "x1Y2z" * 12 + " "
        yield f"{key.strip()} and a run", run * (SIZE // len(run))
    for match in MATCHES:
        yield f"{match[:24]} as often as fits", f"{match} " * (SIZE // (len(match) + 1))
    yield "all keys in turn", "".join(KEYS) * (SIZE // len("".join(KEYS)))


def steps() -> Iterator[tuple[str, Callable[[str], object]]]:
    """Each rule alone, all of them with a credential to look for, and the tokenizer."""
    for rule in (*SECRETS, *PII):
        rules = RuleSet([rule])
        yield f"rule {rule.name}", lambda text, rules=rules: rules.apply(text, Counter())
    config = Redaction(pii=tuple(rule.name for rule in PII))
    salt = "5a" * 32
    secrets = tuple(Secret(length, f"{length:032x}") for length in (20, 51, 108))
    start = Start(UUID(int=1), 0, "u", "openai", "e", "POST", "/", salt=salt, secrets=secrets)
    plain = Start(UUID(int=1), 0, "u", "openai", "e", "POST", "/")
    redactor = Redactor(config)
    yield "all rules", lambda text: redactor.scan(plain).text(text)
    yield "all rules and three credentials", lambda text: redactor.scan(start).text(text)
    for model in ("gpt-4", "gpt-4o"):
        yield f"tokenizer of {model}", lambda text, model=model: TokenCounter().count(text, model)


def main() -> None:
    """Prints the table."""
    given = list(texts())
    print("| step | worst text | seconds of processor |\n|---|---|---:|")
    for name, work in steps():
        seconds, worst = max(_timed(work, text, of) for of, text in given)
        print(f"| {name} | {worst} | {seconds:.3f} |", flush=True)


def _timed(work: Callable[[str], object], text: str, name: str) -> tuple[float, str]:
    begun = time.process_time()
    work(text)
    return time.process_time() - begun, name


if __name__ == "__main__":
    main()
