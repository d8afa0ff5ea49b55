"""Call: one request of an agent to its upstream, and the answer back, as bytes.

A `Call` lives as long as one request. Bodies are streamed both ways with back-pressure and are
appended to the tap before they go on. Its rules:

- A fault before the answer's head becomes an error answer; after it, the agent's connection is
  cut, so a broken answer never looks whole.
- The agent leaving cancels the handler, wherever it waits; the record is finished in synchronous
  code, and the upstream's connection is closed at once.
- A request is sent again only if a kept connection broke before any byte of the answer came.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, cast

from proxy.exchange import Outcome
from proxy.wire import fields, headers, plans, reporting
from proxy.wire.admission import Admitted, Healthy, Reporting
from proxy.wire.agent import AgentConnection, refusal_bytes
from proxy.wire.answer import NO_LENGTH, Head
from proxy.wire.connection import Connection
from proxy.wire.faults import UpstreamFault, UpstreamReset
from proxy.wire.passing import drained, pass_body
from proxy.wire.refusals import HEALTHY, NOT_HTTP_1, SPOOL_FULL, Refusal
from proxy.wire.request import Request
from proxy.wire.signing import BODY_BYTES_MAX, Signer
from proxy.wire.tap import Tap, mint_id
from proxy.wire.upload import Upload, whole_body
from proxy.wire.websocket import tunnel

if TYPE_CHECKING:
    from proxy.wire.relay import Relay

CONTINUE_AFTER_S = 1.0  # what curl waits for a 100 before it sends its body
SOCKET_BYTES_MAX = 2**63  # of a socket: its messages are bounded one by one when they are read

_COMPLETE, _UPSTREAM_ERROR = Outcome.COMPLETE, Outcome.UPSTREAM_ERROR  # looked up once: they are
_PROXY_CRASHED = Outcome.PROXY_CRASHED  # wanted in each call, and an enumeration is slow at it

_log = logging.getLogger("proxy.wire")


class Call:
    """One request and its answer."""

    __slots__ = (
        "_agent",
        "_answer_began",
        "_at_ns",
        "_began_ns",
        "_body",
        "_connection",
        "_is_http_1_1",
        "_keeps_alive",
        "_length",
        "_patience",
        "_plan",
        "_relay",
        "_request",
        "_row_id",
        "_tap",
        "_upload",
    )

    def __init__(self, relay: Relay, agent: AgentConnection, request: Request) -> None:
        self._at_ns = time.time_ns()
        self._began_ns = time.monotonic_ns()
        self._relay = relay
        self._request = request
        self._agent = agent
        self._is_http_1_1 = request.version == "1.1"
        self._keeps_alive = False
        self._length: bytes | None = None
        self._tap: Tap | None = None
        self._row_id: str | None = None
        self._connection: Connection | None = None
        self._upload: Upload | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._answer_began = False
        self._body = b""  # what of the request's is at hand when the call begins

    async def run(self) -> bool:
        request = self._request
        if request.version not in ("1.0", "1.1"):  # llhttp reads 0.9 and 2.0
            return self._refuse_unrecorded(NOT_HTTP_1)
        plan, self._length = self._relay.plans.of(
            request.method,
            request.target,
            request.fields,
            is_http_1_0=not self._is_http_1_1,
        )
        if isinstance(plan, Refusal):
            return self._refuse_unrecorded(plan)
        if isinstance(plan, Healthy):
            return self._answer_health()
        if isinstance(plan, Reporting):
            return await self._take_report(plan)
        self._plan, decision = plan, plan.admitted
        self._keeps_alive = self._is_http_1_1 and request.keeps_alive and plan.is_parsed_alone
        if self._must_be_refused(decision):
            return self._refuse_unrecorded(SPOOL_FULL, decision.dialect)
        if not decision.is_websocket:  # of these nothing is recorded before they are open
            self._body = request.body.read_nowait()
            self._open_tap(decision)
            self._count(decision)
        try:
            return await self._exchange(decision)
        except UpstreamFault as fault:
            return self._answer_fault(decision, fault)
        except ConnectionError:
            self._end(Outcome.CLIENT_DISCONNECTED, "the agent closed the connection")
            return False
        except TimeoutError:
            self._end(Outcome.CLIENT_DISCONNECTED, "the agent stopped reading the answer")
            self._agent.abort()
            return False
        except asyncio.CancelledError:
            self._end_cancelled()
            raise
        except Exception:
            if self._answer_began:  # an error answer in its middle would be taken for content
                self._agent.abort()
            raise
        finally:
            self._clean_up(decision)

    # The request.

    async def _exchange(self, admitted: Admitted) -> bool:
        if self._plan.expects_continue:
            self._expect_continue()
        signer = self._relay.signers.get(admitted.origin.name)
        if signer is None:
            upload = self._upload = self._plain_upload()
        else:
            upload = self._upload = await self._signed_upload(admitted, signer)
        head = await self._ask(admitted, upload)
        connection = cast(Connection, self._connection)
        upload.forbid_repeat()
        if head.status == 101:
            return await self._switch(admitted, connection, head)
        if admitted.is_websocket:
            self._count(admitted)
        await self._relay_answer(admitted, connection, head)
        return self._keeps_alive and upload.is_whole

    def _plain_upload(self) -> Upload:
        return Upload(
            self._plan.to_upstream(self._length),
            self._request.body,
            self._tap,
            self._body,
            is_chunked=self._plan.is_chunked,
            idle_timeout_s=self._relay.idle_timeout_s,
        )

    async def _signed_upload(self, admitted: Admitted, signer: Signer) -> Upload:
        """The request with its whole body, signed."""
        self._continue()  # the upstream cannot be asked whether it wants the body
        timeout_s = self._relay.idle_timeout_s
        body = await whole_body(self._request.body, self._body, BODY_BYTES_MAX, timeout_s)
        if self._tap is not None and (rest := body[len(self._body) :]):
            self._tap.request(rest)
        method, origin = self._request.method, admitted.origin
        given = self._request.fields
        whole = await signer.request(method, admitted.target, origin.host, given, body)
        content, tap = self._request.body, self._tap
        return Upload(whole, content, tap, b"", is_chunked=False, idle_timeout_s=timeout_s)

    async def _ask(self, admitted: Admitted, upload: Upload) -> Head:
        """Send the request; the final head of the answer. One retry for a stale connection."""
        upstream = self._relay.upstreams[admitted.origin.name]
        idle = self._connection = upstream.take_idle()
        if idle is not None:
            try:
                return await self._head(admitted, upload, idle)
            except UpstreamReset:
                if idle.has_answered or not upload.is_repeatable:
                    raise
            upload.stop()
            idle.finish()
        self._connection = None
        self._connection = await upstream.connect()
        return await self._head(admitted, upload, self._connection)

    async def _head(self, admitted: Admitted, upload: Upload, connection: Connection) -> Head:
        connection.begin(is_head_only=self._request.method == "HEAD")
        upload.begin(connection)
        head = await connection.head()
        while head.is_interim:
            self._pass_interim(head)
            head = await connection.head()
        if head.status == 101 and not admitted.is_websocket:
            raise UpstreamReset("the upstream switched protocols unasked")
        return head

    # Interim answers.

    def _expect_continue(self) -> None:
        """An agent that waits for `100 Continue` gets it from us if the upstream sends none."""
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(CONTINUE_AFTER_S, self._continue)

    def _continue(self) -> None:
        if self._patience is None:
            return
        self._patience.cancel()
        self._patience = None
        has_begun = self._upload is not None and self._upload.has_body_begun
        if not has_begun and not self._answer_began and self._agent.transport is not None:
            self._agent.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _pass_interim(self, head: Head) -> None:
        if head.status == 100:
            self._continue()
        elif self._is_http_1_1:
            lines = headers.to_agent(head.fields, None)
            self._agent.send(b"".join((head.status_line, *lines, b"\r\n")))

    # The answer.

    async def _relay_answer(self, admitted: Admitted, connection: Connection, head: Head) -> None:
        """Pass head and body on, each piece as it arrives, each appended before it is released."""
        agent, tap, idle_timeout_s = self._agent, self._tap, self._relay.idle_timeout_s
        is_chunked = self._is_http_1_1 and head.framing in NO_LENGTH
        begun = self._answer_head(admitted, head, is_chunked)
        last = await pass_body(agent, connection, tap, begun, idle_timeout_s, is_chunked=is_chunked)
        self._end(_COMPLETE if head.status < 400 else _UPSTREAM_ERROR)
        if tap is not None and self._relay.synced is not None:
            await self._relay.synced()
        if is_chunked:
            last += b"0\r\n\r\n"
        if last:
            agent.send(last)
        await drained(agent, idle_timeout_s)
        agent.ends_by_close = False

    def _answer_head(self, admitted: Admitted, head: Head, is_chunked: bool) -> bytes:
        self._answer_began = True
        is_recorded_elsewhere = fields.first(head.fields, headers.ID) is not None
        if self._tap is not None:
            self._tap.head(
                head.status,
                lambda: headers.kept_of_answer(head.fields, admitted.credentials),
                announced=fields.first(head.fields, b"content-length"),
                is_recorded_elsewhere=is_recorded_elsewhere,
            )
        lines = headers.to_agent(head.fields, self._row_id)
        if is_chunked:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        elif head.framing in NO_LENGTH:
            self._agent.ends_by_close = True
        if self._relay.is_draining or (self._upload is not None and not self._upload.is_whole):
            self._keeps_alive = False
        if not self._keeps_alive:
            lines.append(b"Connection: close\r\n")
        return b"".join((head.status_line, *lines, b"\r\n"))

    async def _switch(self, admitted: Admitted, connection: Connection, head: Head) -> bool:
        self._answer_began = True
        if fields.first(head.fields, headers.ID) is None:  # else recorded by a gateway behind us
            self._open_tap(admitted)
        self._count(admitted)
        if self._tap is not None:
            self._tap.request_complete()
            self._tap.head(101, lambda: headers.kept_of_answer(head.fields, admitted.credentials))
            self._tap.release()
        lines = headers.to_agent(head.fields, self._row_id)
        switch = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        self._agent.send(b"".join((head.status_line, *lines, switch)))
        await tunnel(self._agent, connection, self._tap, self._end_socket)
        return False

    # The record.

    def _must_be_refused(self, admitted: Admitted) -> bool:
        relay, endpoint = self._relay, admitted.endpoint
        if relay.sink is None or endpoint is None or not endpoint.makes_row:
            return False
        return relay.refuses_when_full and relay.sink.is_full

    def _open_tap(self, admitted: Admitted) -> None:
        relay, endpoint, sink = self._relay, admitted.endpoint, self._relay.sink
        if endpoint is None or sink is None:
            return
        id = mint_id(self._at_ns)
        name = str(id)
        self._tap = Tap.open(
            sink,
            id,
            lambda: self._plan.start(name, self._at_ns, self._length),
            self._began_ns,
            SOCKET_BYTES_MAX if admitted.is_websocket else relay.room,
            relay.stats.count_tap_fault,
            body=self._body,
            announced=self._length,
        )
        if self._tap is not None and relay.adds_id and endpoint.makes_row:
            self._row_id = name

    def _count(self, admitted: Admitted) -> None:
        stats = self._relay.stats
        stats.websockets += admitted.is_websocket
        if self._tap is not None:
            stats.recorded += 1
        else:
            stats.passthrough += 1
            path = admitted.recorded_target.partition("?")[0]
            _log.info("forwarding %s %s %r", self._request.method, admitted.origin.name, path)

    def _end(self, outcome: Outcome, error: str | None = None) -> None:
        if self._tap is not None:
            self._tap.end(outcome, error)

    def _end_cancelled(self) -> None:
        if self._relay.is_stopped:
            self._end(Outcome.PROXY_CRASHED, _STOPPED)
        else:
            self._end(Outcome.CLIENT_DISCONNECTED, "the agent closed the connection")

    def _end_socket(self, by_agent: bool) -> None:
        if by_agent:
            self._end_cancelled()  # which is also how a gateway that stops ends it
        else:
            self._end(Outcome.COMPLETE)

    # Reports for the gateway itself.

    async def _take_report(self, wanted: Reporting) -> bool:
        """Read, check and append a report. Nothing is begun before the body is whole."""
        relay, request = self._relay, self._request
        given = request.fields
        is_parsed_alone = plans.is_parsed_alone(given)
        self._keeps_alive = self._is_http_1_1 and request.keeps_alive and is_parsed_alone
        if plans.expects_continue(given):
            self._expect_continue()
            self._continue()
        id = await reporting.taken(relay, request.body, wanted)
        if isinstance(id, Refusal):
            return self._refuse_unrecorded(id)
        relay.stats.recorded += 1
        if relay.synced is not None:
            await relay.synced()
        keeps_alive = self._keeps_alive and not relay.is_draining
        if self._agent.transport is not None:
            self._agent.send(reporting.accepted(id, keeps_alive=keeps_alive))
        return keeps_alive

    # Refusals and faults.

    def _answer_health(self) -> bool:
        if self._agent.transport is not None:
            self._agent.send(HEALTHY)
        return False

    def _refuse_unrecorded(self, refusal: Refusal, dialect: str | None = None) -> bool:
        self._relay.stats.refused += 1
        if dialect is not None:
            refusal = Refusal(refusal.status, refusal.text, dialect)
        if self._agent.transport is not None:
            self._agent.send(refusal_bytes(refusal))
        return False

    def _answer_fault(self, admitted: Admitted, fault: UpstreamFault) -> bool:
        """Before the answer began: an error answer, recorded as what the agent saw. Else: cut."""
        outcome, refusal = fault.outcome, Refusal(fault.status, str(fault), admitted.dialect)
        if self._upload is not None and self._upload.fault is not None:
            outcome, mistake = Outcome.CLIENT_DISCONNECTED, self._upload.fault
            refusal = Refusal(mistake.status, mistake.text, admitted.dialect)
        if self._answer_began:
            self._end(outcome, refusal.text)
            self._agent.abort()
            return False
        if self._tap is not None:
            self._tap.head(refusal.status, lambda: (("content-type", "application/json"),))
            self._tap.response(refusal.body, is_last=True)
        self._end(outcome, refusal.text)
        extra = [b"%b: %b\r\n" % (headers.ID, self._row_id.encode())] if self._row_id else []
        if self._agent.transport is not None:
            self._agent.send(refusal_bytes(refusal, *extra))
        return False

    # The end.

    def _clean_up(self, admitted: Admitted) -> None:
        """Whatever happened: no task, no open record, no connection in an unknown state."""
        if self._patience is not None:
            self._patience.cancel()
        if self._upload is not None:
            self._upload.stop()
        if self._connection is not None:
            self._relay.upstreams[admitted.origin.name].give_back(self._connection)
        self._end(_PROXY_CRASHED, "an error inside the gateway")  # unless it has ended


_STOPPED = "the gateway was stopped during the call"
