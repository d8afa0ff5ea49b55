"""Justified: why the gateway differs from no gateway at all, for each difference that is accepted.

The rules are data (`rules.toml`). The first that fits a difference and its case justifies it; a
difference without a rule is a fault.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.http.cases import Case


@dataclass(frozen=True, slots=True)
class Rule:
    """Both patterns fit from their beginning; `where` is a case as `group: name`."""

    key: str
    difference: str
    where: str
    why: str

    def fits(self, case: Case, difference: str) -> bool:
        where = f"{case.group}: {case.name}"
        return bool(re.fullmatch(self.difference, difference) and re.match(self.where, where))


def _read() -> tuple[Rule, ...]:
    data = tomllib.loads(Path(__file__).with_name("rules.toml").read_text(encoding="utf-8"))
    return tuple(Rule(**rule | {"why": rule["why"].replace("\n", " ")}) for rule in data["rule"])


RULES = _read()


def rule_for(case: Case, difference: str) -> Rule | None:
    return next((rule for rule in RULES if rule.fits(case, difference)), None)
