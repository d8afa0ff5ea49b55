"""Unrest: what keeps a fleet from being at rest, told by everybody who may hold calls."""

import json
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

from proxy.fleet.members import Fleet as Reading
from proxy.fleet.stream import consumer_name
from proxy.fleet.subjects import KNOWN
from proxy.spool.totals import read_totals
from tests.fleet.servers import Servers

LOG_LINES = 3
LINE_CHARS = 240
ANSWER_S = 5.0
CONSUMERS = {consumer_name(version) for version in KNOWN}


def told(
    reading: Reading | None, spools: Iterable[Path], servers: Servers, logs: Iterable[Path]
) -> str:
    """Lines about spools, members, each server's copies of the streams; then the ends of logs."""
    lines = [*_spools(spools), *_members(reading)]
    for number, url in enumerate(servers.monitors):
        lines += _copies(number, url)
    for log in (*servers.logs, *logs):
        lines += [f"{log}:", *_end(log)]
    return "\n".join(lines)


def _spools(spools: Iterable[Path]) -> Iterator[str]:
    for spool in spools:
        for each in read_totals(spool):
            yield (
                f"{spool.parent.name} slot {each.slot}: captured {each.captured}, "
                f"stored {each.stored}, waiting {each.waiting}, lost {sum(each.lost.values())}, "
                f"{'live' if each.is_live else 'not live'}"
            )


def _members(reading: Reading | None) -> Iterator[str]:
    if reading is None:
        yield "no reading of the fleet"
        return
    yield (
        f"fleet: captured {reading.captured}, stored {reading.stored}, waiting {reading.waiting}, "
        f"in the stream {reading.messages_in_stream}, set aside {reading.set_aside}"
    )
    for each in reading.members:
        yield (
            f"{each.role} {each.id} at {each.at:%H:%M:%S}: captured {each.captured}, "
            f"forwarded {each.forwarded}, stored {each.stored}, in hand {each.in_hand}"
        )


def _copies(number: int, url: str) -> Iterator[str]:
    """Each server keeps a copy of each stream and of its consumers' state, and may err."""
    try:
        with urllib.request.urlopen(f"{url}/jsz?consumers=true", timeout=ANSWER_S) as answer:
            found = json.load(answer)
    except (OSError, ValueError) as error:
        yield f"server {number}: {error!r}"
        return
    for account in found.get("account_details", ()):
        for stream in account.get("stream_detail", ()):
            yield f"server {number} {stream['name']}: {_state(stream)}"
            shared = (c for c in stream.get("consumer_detail") or () if c["name"] in CONSUMERS)
            for consumer in shared:
                yield f"server {number} {stream['name']} {consumer['name']}: {_state(consumer)}"


def _state(of: dict) -> str:
    wanted = (
        *("state", "cluster", "delivered", "ack_floor", "num_pending", "num_ack_pending"),
        *("num_redelivered", "num_waiting"),
    )
    return json.dumps({name: of[name] for name in wanted if name in of})


def _end(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [f"    {line[:LINE_CHARS]}" for line in lines[-LOG_LINES:]]
