"""Trajectory: what `replay` and `report` read from the database."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from proxy.config import Config
from proxy.errors import ProxyError
from proxy.reading import opened
from proxy.store.postgres import Row
from proxy.store.reports import OVERVIEW, REPLAY, REPORTS


async def conversation(
    config: Config, session: str, project: str | None, turn: UUID | None
) -> list[Row]:
    """The rows of one conversation in order of time. Raises ProxyError where there are none."""
    async with opened(config) as store:
        rows = await store.fetch(REPLAY, session, project, turn)
    if not rows:
        where = f" in project {project!r}" if project else ""
        where += f" and turn {turn}" if turn else ""
        raise ProxyError(
            f"no calls of session {session!r}{where}; list sessions with: "
            "agent-telemetry report sessions"
        )
    return rows


async def report(
    config: Config, name: str | None, since: datetime, project: str | None
) -> dict[str, list[Row]]:
    """One report by its name, or those of the overview."""
    async with opened(config) as store:
        return {
            each: await store.fetch(REPORTS[each], since, project)
            for each in ((name,) if name else OVERVIEW)
        }
