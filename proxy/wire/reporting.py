"""Reporting: a report for the gateway itself, from its body to the spool.

Not on the path of model calls. The body is read whole, checked, and appended to the spool as one
exchange without an upstream; the answer is written after that. So a report is as safe as a call:
it outlives a database that is away and a process that is killed, and it counts like any captured
call.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING
from uuid import UUID

import orjson

from proxy import report
from proxy.errors import ReportInvalid
from proxy.exchange import AnswerHead, End, Outcome, Start
from proxy.wire import credentials
from proxy.wire.admission import Reporting
from proxy.wire.faults import BodyFault
from proxy.wire.refusals import Refusal
from proxy.wire.request import Body
from proxy.wire.tap import Sink, mint_id
from proxy.wire.upload import whole_body

if TYPE_CHECKING:
    from proxy.wire.relay import Relay

_NO_SPOOL = Refusal(503, "nothing is recorded; the gateway's log says why")
_FULL = Refusal(503, "the spool has no room for reports; see agent-telemetry spool status")
_ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"


async def taken(relay: Relay, content: Body, wanted: Reporting) -> UUID | Refusal:
    """Read, check and append a report; its id, or why it is not taken."""
    said = wanted.labels
    try:
        body = await whole_body(content, b"", report.REPORT_BYTES_MAX, relay.idle_timeout_s)
        kind = wanted.endpoint.name
        found = report.read(kind, body, project=said.project, session=said.session)
    except BodyFault as fault:
        return Refusal(fault.status, str(fault))
    except ReportInvalid as error:
        return Refusal(400, str(error), param=error.field)
    if relay.sink is None:
        return _NO_SPOOL
    keeps = relay.admission.content_of(found.project_id, wanted.wish)
    return append(relay.sink, wanted, found, keeps, relay.salt)


def append(
    sink: Sink, wanted: Reporting, found: report.Report, content: str, salt: bytes
) -> UUID | Refusal:
    """Write a report to the spool; its id, or why it cannot be kept."""
    if sink.is_full:
        return _FULL
    at_ns, began_ns = time.time_ns(), time.monotonic_ns()
    body = orjson.dumps(found.values())
    start = Start(
        mint_id(at_ns),
        at_ns,
        wanted.endpoint.dialect,
        wanted.endpoint.dialect,
        wanted.endpoint.name,
        "POST",
        f"/telemetry/v1/{wanted.endpoint.name.rpartition('.')[2]}",
        labels=wanted.labels,
        content=content,
        salt=salt.hex(),
        secrets=credentials.as_secrets(wanted.credentials, salt),
    )
    if not sink.start(start):
        return _FULL
    is_kept = sink.request(start.id, 0, body)
    sink.head(start.id, AnswerHead(0, 202 if is_kept else _FULL.status))
    sink.end(start.id, _end(body, is_kept=is_kept, at_us=(time.monotonic_ns() - began_ns) // 1000))
    return start.id if is_kept else _FULL


def _end(body: bytes, *, is_kept: bool, at_us: int) -> End:
    return End(
        at_us,
        Outcome.COMPLETE,
        request_bytes=len(body),
        request_sha256=hashlib.sha256(body).hexdigest(),
        request_kept=len(body) if is_kept else 0,
    )


def accepted(id: UUID, *, keeps_alive: bool) -> bytes:
    """The whole answer to whoever sent the report."""
    body = orjson.dumps({"report_id": str(id)})
    head = _ACCEPTED % len(body)
    return head + (b"\r\n" if keeps_alive else b"Connection: close\r\n\r\n") + body
