"""How often the rules of redaction match on recorded traffic, and what they cost in time.

    python bench/redaction_rate.py CORPUS_DIR

Recorded bodies were cleaned of real secrets, so nearly every match is a false one. Prints a
Markdown table of matches by rule, with personal data opted in to below the line.
"""

from __future__ import annotations

import base64
import gzip
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from proxy.enrich.redact_rules import PII, SECRETS
from proxy.enrich.ruleset import RuleSet


def bodies(corpus: Path) -> Iterator[str]:
    """Every recorded request and answer as text, as JSON where it is."""
    for file in sorted(corpus.rglob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                for side in ("request", "response"):
                    yield base64.b64decode(record[side]["body_b64"] or "").decode(
                        "utf-8", "replace"
                    )


def main(corpus: Path) -> None:
    """Prints the table."""
    rules = RuleSet(SECRETS)
    counts: Counter[str] = Counter()
    texts = list(bodies(corpus))
    begun = time.perf_counter()
    touched = sum(rules.apply(text, counts) != text for text in texts)
    seconds = time.perf_counter() - begun
    megabytes = sum(map(len, texts)) / 1e6
    print(f"{len(texts)} bodies, {megabytes:.0f} MB, {touched} of them changed")
    print(f"{seconds / megabytes * 1000:.1f} ms/MB\n")
    print("| rule | matches |\n|---|---:|")
    personal: Counter[str] = Counter()
    for text in texts:
        RULES_PII.apply(text, personal)
    for found in (counts, personal):
        for name, number in found.most_common():
            print(f"| {name} | {number} |")


RULES_PII = RuleSet(PII)

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python bench/redaction_rate.py CORPUS_DIR")
    main(Path(sys.argv[1]))
