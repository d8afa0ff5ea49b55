"""The measured parts of docs/storage.md: each program puts its own between its marks."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

from bench.report import machine

DOCUMENT = Path(__file__).parents[1] / "docs/storage.md"


def publish(name: str, text: str) -> None:
    """Print it, and write it into the document with date, machine and versions."""
    about = (
        f"Measured {time.strftime('%Y-%m-%d')} on {machine()}; Python {platform.python_version()}."
    )
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    print(f"{about}\n\n{text}")
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    if not after:
        sys.exit(f"docs/storage.md lacks the marks of {name}")
    DOCUMENT.write_text(f"{before}{begin}\n\n{about}\n\n{text}\n\n{end}{after}", encoding="utf-8")
