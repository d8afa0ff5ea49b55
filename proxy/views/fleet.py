"""Fleet view: all gateways and recorders, and the stream between them, for people and programs."""

from __future__ import annotations

from typing import Any

from proxy.sums import Fleet, Member, age_s, lost_calls
from proxy.views import spool
from proxy.views.lines import duration


def as_json(fleet: Fleet) -> dict[str, Any]:
    """The sums as of a single spool, then what they are made of."""
    return spool.as_json(fleet) | {
        "stream": {
            "calls": fleet.calls_in_stream,
            "messages": fleet.messages_in_stream,
            "bytes": fleet.stream_bytes,
            "not_known": dict(fleet.not_known),
        },
        "gateways": [_gateway(each) for each in fleet.gateways],
        "recorders": [_recorder(each) for each in fleet.recorders],
    }


def as_text(fleet: Fleet) -> str:
    """The sums, the stream, and a line per member."""
    lines = [
        spool.as_text(fleet),
        f"{'stream':<12}{fleet.messages_in_stream:>10}  messages, {spool.size(fleet.stream_bytes)}",
    ]
    lines += [
        f"{number} messages of version {version} wait for a newer recorder: update recorders"
        for version, number in sorted(fleet.not_known.items())
    ]
    lines += ["", f"{len(fleet.gateways)} gateways, {len(fleet.recorders)} recorders"]
    for each in fleet.gateways:
        lost = lost_calls(each)
        lines.append(f"{_who(each)}  captured {each.captured}, waiting {each.waiting}, lost {lost}")
    for each in fleet.recorders:
        lines.append(f"{_who(each)}  stored {each.stored} since start, in hand {each.in_hand}")
    return "\n".join(lines)


def _who(member: Member) -> str:
    age = duration(int(age_s(member.at) * 1000))
    state = f"SILENT for {age}" if member.is_silent else "live"
    return f"  {member.role:<9} {member.host} {member.id[:8]} {member.program} {state}"


def _gateway(member: Member) -> dict[str, Any]:
    totals = {
        "captured": member.captured,
        "waiting": member.waiting,
        "lost": dict(member.lost),
    }
    return _described(member) | totals


def _recorder(member: Member) -> dict[str, Any]:
    return _described(member) | {"stored": member.stored, "in_hand": member.in_hand}


def _described(member: Member) -> dict[str, Any]:
    return {
        "id": member.id,
        "host": member.host,
        "version": member.program,
        "is_silent": member.is_silent,
        "spoke_s_ago": round(age_s(member.at), 1),
    }
