"""Faults: what a PostgreSQL error means to this program, told from its SQLSTATE alone. Pure.

Three answers (the source is PostgreSQL's appendix "Error Codes"): wait and write the same batch
again; the operator has to act; this one row cannot be stored. The server's own texts are never
used: DETAIL and CONTEXT quote what was being stored.
"""

from __future__ import annotations

from proxy.errors import ProxyError, RowRejected, StoreMisconfigured, StoreTooSlow, StoreUnavailable

# 22 data exception, 23 constraint violation, 54 limit of the program (size, depth)
_ROW = ("22", "23", "54")
# 08 connection, 25 transaction state (25006: read-only, a standby), 40 rolled back, 53 resources,
# 55 lock not available, 57 operator intervention, 58 system error, XX internal error
_WAIT = ("08", "25", "40", "53", "55", "57", "58", "XX")
_REMEDIES = {
    "28": "the role or its password is refused: correct store.dsn",
    "3D": "the database does not exist: create it, or correct store.dsn",
    "42501": "the role lacks a right: it needs SELECT, INSERT, UPDATE and DELETE on the tables "
    "agent_* and TEMPORARY on the database; to migrate, also CREATE on the schema",
    "42P01": "a table of this program's is missing: run `agent-telemetry migrate`",
    "42704": "the server does not know an option that is named in store.dsn",
    "42": "the schema is not what this version expects: run `agent-telemetry migrate`",
    "3F": "the schema does not exist: correct search_path or store.dsn",
}
_CANCELLED = "57014"
_OTHER = "see the server's log"


def fault(sqlstate: str | None) -> ProxyError:
    """The error to raise. The text of a RowRejected is the SQLSTATE."""
    code = sqlstate or "XX000"
    if code.startswith(_ROW):
        return RowRejected(code)
    if code == _CANCELLED:
        return StoreTooSlow(f"PostgreSQL ended it at its time limit (SQLSTATE {code})")
    if code.startswith(_WAIT):
        return StoreUnavailable(f"PostgreSQL refuses for now (SQLSTATE {code})")
    remedy = next((text for key, text in _REMEDIES.items() if code.startswith(key)), _OTHER)
    return StoreMisconfigured(f"PostgreSQL refuses (SQLSTATE {code}): {remedy}")
