"""Faults: how an upstream can fail a call. The texts are for the agent's user and the record.

They name the upstream and the remedy, and hold nothing of the request or of the answer.
"""

from __future__ import annotations

from proxy.exchange import Outcome


class UpstreamFault(Exception):
    """The upstream did not answer, or not to the end."""

    outcome = Outcome.UPSTREAM_RESET
    status = 502  # of the error answer, where none has begun


class UpstreamUnreachable(UpstreamFault):
    """No connection, or its certificate was refused. The operator checks url, TLS and egress."""

    outcome = Outcome.UPSTREAM_UNREACHABLE


class UpstreamTimeout(UpstreamFault):
    """Nothing came for idle_timeout_s, or no connection within connect_timeout_s."""

    outcome = Outcome.UPSTREAM_TIMEOUT
    status = 504


class UpstreamReset(UpstreamFault):
    """The connection broke, or what came cannot be framed safely."""


class Unsigned(UpstreamFault):
    """The request could not be signed. The operator gives the gateway AWS credentials."""

    outcome = Outcome.UPSTREAM_UNREACHABLE


class BodyFault(UpstreamFault):
    """The agent's body is broken, stopped arriving, or is larger than can be signed."""

    outcome = Outcome.CLIENT_DISCONNECTED

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
