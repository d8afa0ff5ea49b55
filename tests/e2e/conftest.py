"""What the tests of the whole program share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.pipeline import Pipeline, pipeline
from tests.e2e.provider import Provider


@pytest.fixture
async def stand(tmp_path: Path, dsn: str, transport: dict) -> AsyncIterator[Pipeline]:
    """Gateway and recorder before a provider that answers anything, over each transport."""
    async with (
        Provider(0).serving() as upstream,
        pipeline(tmp_path, dsn, upstream, **transport) as found,
    ):
        yield found
