"""Plans: what is decided about a request's head, kept for the next request with the same head.

An agent sends the same head in each round but for the body's length. So all that follows from the
head (where it goes, what is forwarded of it, what the spool keeps) is worked out once. Pure but for
that memory, which is bounded in entries and in bytes. Only admissions are kept: a refusal is
decided anew each time.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from proxy.exchange import Start
from proxy.wire import credentials, fields, headers
from proxy.wire.admission import Admission, Admitted, Healthy, Reporting
from proxy.wire.fields import Fields
from proxy.wire.refusals import Refusal

KEPT_MAX = 1024
HEAD_BYTES_MAX = 8192  # of a head that is kept
_LENGTH = b"content-length"
_NOBODY = UUID(int=0)
_DIGITS_MAX = 15  # shorter than any credential, so no mask can fall on it


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows from a head. Where it has a Content-Length, its value is left out of each."""

    admitted: Admitted
    is_parsed_alone: bool
    is_chunked: bool
    expects_continue: bool
    _to_upstream: list[bytes]
    _start: list[bytes]

    def to_upstream(self, length: bytes | None) -> bytes:
        """The whole head for the upstream; `length` is the value of Content-Length."""
        return (length or b"").join(self._to_upstream)

    def start(self, id: str, at_ns: int, length: bytes | None) -> bytes:
        """What `Start.to_bytes` gives for a call of this id that came at this time."""
        return b'{"id":"%b","at_ns":%d%b' % (id.encode(), at_ns, (length or b"").join(self._start))


class Plans:
    """The plans of one configuration."""

    def __init__(self, admission: Admission, salt: bytes) -> None:
        """`salt` is the key of the secrets' digests."""
        self._admission = admission
        self._salt = salt
        self._gap = os.urandom(16).hex().encode()  # where a length goes; nobody can send it
        self._plans: OrderedDict[object, Plan] = OrderedDict()

    def of(
        self, method: str, target: bytes, given: Fields, *, is_http_1_0: bool
    ) -> tuple[Plan | Refusal | Healthy | Reporting, bytes | None]:
        """The plan of a request, or what else is to be done with it; and its Content-Length."""
        at = _length_at(given)
        if at is None:
            key, length = (method, target, is_http_1_0, given), None
        else:
            _, name, length = given[at]
            key = method, target, is_http_1_0, (*given[:at], (_LENGTH, name, b""), *given[at + 1 :])
        plan = self._plans.get(key)
        if plan is None:
            found = self._admission.decide(method, target, given, is_http_1_0=is_http_1_0)
            if not isinstance(found, Admitted):
                return found, length
            plan = self._made(method, found, given, at)
            if len(target) + sum(len(n) + len(value) for _, n, value in given) <= HEAD_BYTES_MAX:
                self._plans[key] = plan
            if len(self._plans) > KEPT_MAX:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end(key)
        return plan, length

    def _made(self, method: str, admitted: Admitted, given: Fields, at: int | None) -> Plan:
        origin = admitted.origin
        if at is not None:
            given = (*given[:at], (*given[at][:2], self._gap), *given[at + 1 :])
        first_line = b"%b %b HTTP/1.1\r\n" % (method.encode(), admitted.target)
        lines = headers.to_upstream(
            given, origin.host, origin.key, keeps_upgrade=admitted.is_websocket
        )
        return Plan(
            admitted,
            is_parsed_alone(given),
            fields.first(given, b"transfer-encoding") is not None,
            expects_continue(given),
            b"".join((first_line, *lines, b"\r\n")).split(self._gap),
            self._start(method, admitted, given).split(self._gap),
        )

    def _start(self, method: str, admitted: Admitted, given: Fields) -> bytes:
        """The start of a call with this head, from behind its time."""
        if admitted.endpoint is None:
            return b""
        start = Start(
            _NOBODY,
            0,
            admitted.origin.name,
            admitted.dialect,
            admitted.endpoint.name,
            method,
            admitted.recorded_target,
            headers.kept_of_request(given, admitted.credentials),
            admitted.labels,
            admitted.content,
            self._salt.hex(),
            credentials.as_secrets(admitted.credentials, self._salt),
        )
        return start.to_bytes().removeprefix(b'{"id":"%b","at_ns":0' % str(_NOBODY).encode())


def _length_at(given: Fields) -> int | None:
    """Where Content-Length stands, if it is a plain number. It stands once."""
    for at, (name, _, value) in enumerate(given):
        if name == _LENGTH:
            return at if value.isdigit() and len(value) <= _DIGITS_MAX else None
    return None


def expects_continue(given: Fields) -> bool:
    """Whether the agent waits for `100 Continue` before it sends its body."""
    expectation = fields.first(given, b"expect")
    return expectation is not None and expectation.strip().lower() == b"100-continue"


def is_parsed_alone(given: Fields) -> bool:
    """Whether the parser keeps this request apart from the next one of its connection.

    It hands the last trailer of a chunked body to the next request as a header.
    """
    return fields.first(given, b"transfer-encoding") is None
