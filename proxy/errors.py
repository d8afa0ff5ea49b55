"""The few errors this program raises for its own faults and its environment.

Other people's bytes never raise; they give a value and a list of problems. The command line
prints any `ProxyError` as one line and exits with its `exit_code`.
"""

from __future__ import annotations


class ProxyError(Exception):
    """Something the operator can act on. The text says what, where, and what to do."""

    exit_code = 1


class ConfigError(ProxyError):
    """The configuration cannot be used. The operator corrects the named file and key."""

    exit_code = 2


class StoreUnavailable(ProxyError):
    """The database does not answer or refuses for now. Waiting is enough; nothing is lost."""


class StoreTooSlow(StoreUnavailable):
    """A statement was ended at its time limit. Asking for less may be enough."""


class StoreMisconfigured(ProxyError):
    """The database answers but the schema, role or credentials are wrong. The operator acts."""


class StreamUnavailable(ProxyError):
    """NATS does not answer or refuses for now. Waiting is enough; calls stay in the spool."""


class StreamMisconfigured(ProxyError):
    """NATS answers but the stream or the credentials are wrong. The operator acts."""


class RowRejected(ProxyError):
    """One row cannot be stored as it is. It is set aside; the rest of its batch goes on."""


class ReportInvalid(ProxyError):
    """A report from outside cannot be read. Whoever sent it corrects the named field."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field


class SpoolUnusable(ProxyError):
    """The spool directory cannot be written or read. The operator checks path and permissions."""

    exit_code = 2
