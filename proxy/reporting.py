"""Reporting: reports from outside on their way from the spool to the database.

A report is an exchange without a provider. It is checked again, redacted like every record, and
written where the linker and exports find it. One that cannot be read or stored is set aside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from proxy import report
from proxy.enrich.canonical import clean
from proxy.enrich.redact import Redactor
from proxy.errors import ReportInvalid, RowRejected
from proxy.exchange import Exchange
from proxy.log import describe, event
from proxy.report import Report
from proxy.store.postgres import Store
from proxy.store.reported import write_report

_NAMES = ("project_id", "session_id", "turn_id")
_CONTENT = ("user_message", "comment")


def read(exchange: Exchange, redactor: Redactor) -> Report | str:
    """The report in an exchange, without secrets; or why there is none."""
    try:
        found = report.read(exchange.start.endpoint, exchange.request)
        said = _redacted(found.values(), exchange, redactor)
        return report.read(found.kind, orjson.dumps(said))
    except ReportInvalid as error:
        return f"report refused: {error.field}" if exchange.end else "the report is not whole"
    except Exception as error:  # noqa: BLE001 - fail closed: nothing is kept that was not redacted
        return f"redaction failed: {describe(error)}"


def _redacted(said: dict[str, Any], exchange: Exchange, redactor: Redactor) -> dict[str, Any]:
    """What was said, as far as it may be kept; names in the form in which calls have them."""
    scan = redactor.scan(exchange.start)
    kept: Any = scan.json(said)
    for name in _NAMES:
        if name in said:
            kept[name] = clean(scan.name(said[name]))
    if exchange.start.content == "metadata":
        for name in _CONTENT:
            kept.pop(name, None)
        for result in kept.get("tool_results", ()):
            result.pop("output", None)
    return dict(kept)


async def write(store: Store, exchange: Exchange, found: Report) -> str | None:
    """Keep a report; why the database refuses it, if it does.

    Raises StoreUnavailable or StoreMisconfigured.
    """
    start = exchange.start
    try:
        await write_report(store, start.id, start.started_at, found)
    except RowRejected as refusal:
        return f"sqlstate {refusal}"
    announce(exchange, found)
    return None


def announce(exchange: Exchange, found: Report) -> None:
    """One line of the log for a report that was kept."""
    about: Iterable[str] = (name for name in found.values() if name not in _NAMES)
    event(
        "report",
        id=str(exchange.start.id),
        kind=found.kind,
        project=found.project_id,
        session=found.session_id,
        turn=found.turn_id,
        says=", ".join(about),
    )
