"""The code blocks of the documentation, by language."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str  # what stands behind the fence, "python no-test" too
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(language: str | None = None) -> Iterator[Block]:
    """All blocks of a language; all there are, where none is named."""
    for page in PAGES:
        text = page.read_text()
        for found in _BLOCK.finditer(text):
            if language in (None, found[1].strip()):
                line = text.count("\n", 0, found.start()) + 1
                yield Block(page, line, found[1].strip(), found[2])
