"""Membership: what this machine says of itself to the fleet, while it runs.

The forwarder speaks for the gateways whose spool it reads, the recorder for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from proxy import __version__
from proxy.errors import ProxyError
from proxy.fleet.member import GATEWAY, RECORDER, Member
from proxy.fleet.members import Members
from proxy.log import event
from proxy.spool.totals import read_totals, summed
from proxy.tasks import within

LOOK_S = 1.0
LAST_WORD_S = 2.0
REPEAT_S = 10.0  # that a member which has nothing new to say is still there
NAME = "fleet-id"


def gateway_of(root: Path) -> Callable[[], Member]:
    """Speaks for the gateways that write the spool at `root`. Raises OSError."""
    id = str(_spool_id(root))

    def member() -> Member:
        sums = summed(read_totals(root))
        return Member(
            GATEWAY,
            id,
            socket.gethostname(),
            __version__,
            datetime.now(UTC),
            captured=sums.captured,
            forwarded=sums.stored,
            quarantined=sums.quarantined,
            lost={reason: number for reason, number in sums.lost.items() if number},
            truncated=sums.truncated,
            disk_bytes=sums.disk_bytes,
            oldest_waiting_at=sums.oldest_waiting_at,
        )

    return member


def recorder(id: str, *, stored: int, in_hand: int) -> Member:
    """One recorder, since its start."""
    now, host = datetime.now(UTC), socket.gethostname()
    return Member(RECORDER, id, host, __version__, now, stored=stored, in_hand=in_hand)


async def speak(members: Members, member: Callable[[], Member]) -> None:
    """Say what is new each second, and now and then that we are here. Until cancelled."""
    said, said_at, refusal = None, 0.0, ""
    is_known = False  # that we are here
    loop = asyncio.get_running_loop()
    while True:
        now = member()
        if _facts(now) != said or loop.time() > said_at + REPEAT_S:
            try:
                await members.say(now)
                if not is_known:
                    await members.come_back(now.id)
            except ProxyError as error:
                is_known = False
                if str(error) != refusal:
                    event("fleet is not told", logging.WARNING, reason=str(error))
                refusal = str(error)
            else:
                is_known = True
                said, said_at, refusal = _facts(now), loop.time(), ""
        await asyncio.sleep(LOOK_S)


async def say_at_last(members: Members, member: Member) -> None:
    """The last word of a gateway's machine; a recorder leaves nothing behind."""
    await within(LAST_WORD_S, _last_word(members, member), "the fleet")


async def _last_word(members: Members, member: Member) -> None:
    with contextlib.suppress(ProxyError):
        if member.role == RECORDER:
            await members.leave(member)
        else:
            await members.say(member)


def _facts(member: Member) -> Member:
    return replace(member, at=datetime.fromtimestamp(0, UTC))


def _spool_id(root: Path) -> UUID:
    """Who this spool is, for as long as it lies there. One process at a time asks."""
    path = root / NAME
    with contextlib.suppress(OSError, ValueError):
        return UUID(path.read_text())
    id, beside = uuid4(), path.with_suffix(".new")
    beside.write_text(str(id))
    beside.replace(path)
    return id
