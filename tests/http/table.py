"""Table: writes `docs/http.md`, every case through every front, with the rule of each difference.

    python -m tests.http.table

nginx and HAProxy fill their columns where they are installed; the test compares the gateway's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.http import fronts
from tests.http.cases import Case, all_cases
from tests.http.justified import RULES, rule_for
from tests.http.observe import Observation
from tests.http.verdict import differences

DOCUMENT = Path(__file__).parents[2] / "docs" / "http.md"

_INTRODUCTION = """# HTTP: where the gateway is to be noticed

Produced by `python -m tests.http.table`; `tests/http/test_differences.py` fails where the gateway
does otherwise than this table says, or where a difference has no rule.

Each of the {number} cases below is one raw request, sent directly to a strict provider (the
server of h11), through the gateway, through nginx and through HAProxy (plain reverse proxies in
their default behaviour). Behind it, on the same connection, goes one ordinary request, which
tells how the case was framed. Compared are what the provider read (method, target, fields, body,
number of requests) and what the agent got (status line, fields, body, and whether it is whole).
`same`: no difference to the direct way. `Host` and `Connection` are every front's own and not
compared. `refused` means that nothing reached the provider.

{summary}

## Rules

"""


async def observed(names: Sequence[str]) -> Mapping[str, list[Observation]]:
    """Every case through these fronts."""
    found = await asyncio.gather(*(fronts.through(name, all_cases()) for name in names))
    return dict(zip(names, found, strict=True))


def said(direct: Observation, front: Observation) -> str:
    """The differences of one front as one cell."""
    found = differences(direct, front)
    if found:
        return "; ".join(found)
    return "same" if front.seen else "refused, as directly"


def rows(found: Mapping[str, list[Observation]]) -> list[list[str]]:
    """group, case, the fronts' cells, rules."""
    table = []
    for number, case in enumerate(all_cases()):
        direct = found["direct"][number]
        cells = [
            said(direct, found[name][number]) if name in found else "not run"
            for name in fronts.NAMES[1:]
        ]
        named = differences(direct, found[fronts.OURS][number])
        table.append([case.group, _code(case.name), *cells, ", ".join(_keys(case, named))])
    return table


def _keys(case: Case, named: tuple[str, ...]) -> dict[str, None]:
    rules = (rule_for(case, difference) for difference in named)
    return dict.fromkeys(rule.key if rule else "UNJUSTIFIED" for rule in rules)


def document(found: Mapping[str, list[Observation]]) -> str:
    table = rows(found)
    parts = [_INTRODUCTION.format(number=len(table), summary=_summary(table))]
    parts += [f"- **{rule.key}**: {rule.why}\n" for rule in RULES]
    for group in dict.fromkeys(row[0] for row in table):
        parts.append(f"\n## Cases: {group}\n\n| case | gateway | nginx | HAProxy | rule |\n")
        parts.append("|---|---|---|---|---|\n")
        parts += [f"| {' | '.join(row[1:])} |\n" for row in table if row[0] == group]
    return "".join(parts)


def _summary(table: list[list[str]]) -> str:
    lines = ["| | gateway | nginx | HAProxy |", "|---|---|---|---|"]
    kinds = (
        ("not to be noticed", lambda cell: cell == "same"),
        ("refused, as directly", lambda cell: cell == "refused, as directly"),
        ("refused, though the provider would read it", lambda cell: cell.startswith("refused:")),
        ("forwards what the provider cannot read", lambda cell: "h11 refuses" in cell),
        ("a cut answer looks whole", lambda cell: "looks whole" in cell),
    )
    for name, fits in kinds:
        counts = [str(sum(fits(row[column]) for row in table)) for column in (2, 3, 4)]
        lines.append(f"| {name} | {' | '.join(counts)} |")
    return "\n".join(lines)


def _code(name: str) -> str:
    return f"`` {name} ``".replace("|", "\\|") if "`" in name else f"`{name}`".replace("|", "\\|")


def main() -> None:
    names = [name for name in fronts.NAMES if not fronts.missing(name)]
    DOCUMENT.write_text(document(asyncio.run(observed(names))), encoding="utf-8")


if __name__ == "__main__":
    main()
