"""Relay: one request of an agent to its upstream, and the answer back, as bytes.

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
import os
import time
from dataclasses import dataclass
from typing import cast

from aiohttp import HttpVersion10, HttpVersion11, web

from proxy import report
from proxy.config import Config
from proxy.errors import ReportInvalid
from proxy.exchange import Outcome
from proxy.wire import fields, headers, plans, reporting
from proxy.wire.admission import Admission, Admitted, Healthy, Reporting
from proxy.wire.agent import AgentConnection, Relayed, refusal_bytes
from proxy.wire.answer import Framing, Head
from proxy.wire.connection import Connection
from proxy.wire.faults import BodyFault, UpstreamFault, UpstreamReset
from proxy.wire.refusals import Refusal
from proxy.wire.signing import BODY_BYTES_MAX, Signer, signers_of
from proxy.wire.tap import Sink, Tap, mint_id
from proxy.wire.upload import Upload, chunk, whole_body
from proxy.wire.upstream import upstreams_of
from proxy.wire.websocket import tunnel

CONTINUE_AFTER_S = 1.0  # what curl waits for a 100 before it sends its body
SOCKET_BYTES_MAX = 2**63  # of a socket: its messages are bounded one by one when they are read

_log = logging.getLogger("proxy.wire")


@dataclass(slots=True)
class Stats:
    """Plain counters of one gateway process."""

    active: int = 0
    recorded: int = 0
    passthrough: int = 0
    refused: int = 0
    websockets: int = 0
    tap_faults: int = 0

    def count_tap_fault(self) -> None:
        self.tap_faults += 1


class Relay:
    """What all calls of a gateway share."""

    def __init__(self, config: Config, sink: Sink | None) -> None:
        self.signers = signers_of(config)
        self.upstreams = upstreams_of(config)
        self.stats = Stats()
        self.room = config.capture.max_body_bytes
        self.idle_timeout_s = config.gateway.idle_timeout_s
        self.adds_id = config.gateway.id_header
        self.record_into(sink)
        self.refuses_when_full = config.spool.when_full == "refuse"
        self.salt = os.urandom(32)
        self.admission = Admission(config, signs=frozenset(self.signers))
        self.plans = plans.Plans(self.admission, self.salt)
        self.is_draining = False
        self.is_stopped = False
        self._quiet: asyncio.Future[None] | None = None

    def record_into(self, sink: Sink | None) -> None:
        """Where the calls that begin from now on are recorded; None: nowhere."""
        self.sink = sink
        self.synced = sink.synced if sink is not None and sink.waits_for_disk else None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """aiohttp's handler."""
        self.stats.active += 1
        try:
            return await Call(self, request).run()
        finally:
            self.stats.active -= 1
            if self.stats.active == 0 and self._quiet is not None and not self._quiet.done():
                self._quiet.set_result(None)

    async def quiet(self) -> None:
        """Wait until no call is open."""
        if self.stats.active:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    def close(self) -> None:
        for upstream in self.upstreams.values():
            upstream.close()


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

    def __init__(self, relay: Relay, request: web.BaseRequest) -> None:
        self._at_ns = time.time_ns()
        self._began_ns = time.monotonic_ns()
        self._relay = relay
        self._request = request
        self._agent = cast(AgentConnection, request.protocol)
        self._is_http_1_1 = request.version == HttpVersion11
        self._keeps_alive = False
        self._length: bytes | None = None
        self._tap: Tap | None = None
        self._row_id: str | None = None
        self._connection: Connection | None = None
        self._upload: Upload | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._answer_began = False
        self._body = b""  # what of the request's is at hand when the call begins

    async def run(self) -> web.StreamResponse:
        request = self._request
        if request.version not in (HttpVersion10, HttpVersion11):  # llhttp reads 0.9 and 2.0
            return self._refuse_unrecorded(_VERSION)
        plan, self._length = self._relay.plans.of(
            request.method,
            request.raw_path,
            request.raw_headers,
            is_http_1_0=not self._is_http_1_1,
        )
        if isinstance(plan, Refusal):
            return self._refuse_unrecorded(plan)
        if isinstance(plan, Healthy):
            return self._answer_health()
        if isinstance(plan, Reporting):
            return await self._take_report(plan)
        self._plan, decision = plan, plan.admitted
        self._keeps_alive = self._is_http_1_1 and request.keep_alive and plan.is_parsed_alone
        if self._must_be_refused(decision):
            return self._refuse_unrecorded(_FULL, decision.dialect)
        if not decision.is_websocket:  # of these nothing is recorded before they are open
            self._body = request.content.read_nowait()
            self._open_tap(decision)
            self._count(decision)
        try:
            return await self._exchange(decision)
        except UpstreamFault as fault:
            return self._answer_fault(decision, fault)
        except ConnectionError:
            self._end(Outcome.CLIENT_DISCONNECTED, "the agent closed the connection")
            return Relayed(keeps_alive=False)
        except TimeoutError:
            self._end(Outcome.CLIENT_DISCONNECTED, "the agent stopped reading the answer")
            self._agent.abort()
            return Relayed(keeps_alive=False)
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

    async def _exchange(self, admitted: Admitted) -> web.StreamResponse:
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
        return Relayed(keeps_alive=self._keeps_alive and upload.is_whole)

    def _plain_upload(self) -> Upload:
        return Upload(
            self._plan.to_upstream(self._length),
            self._request.content,
            self._tap,
            self._body,
            is_chunked=self._plan.is_chunked,
            idle_timeout_s=self._relay.idle_timeout_s,
        )

    async def _signed_upload(self, admitted: Admitted, signer: Signer) -> Upload:
        """The request with its whole body, signed."""
        self._continue()  # the upstream cannot be asked whether it wants the body
        timeout_s = self._relay.idle_timeout_s
        body = await whole_body(self._request.content, self._body, BODY_BYTES_MAX, timeout_s)
        if self._tap is not None and (rest := body[len(self._body) :]):
            self._tap.request(rest)
        method, target = self._request.method, admitted.target
        given = fields.from_raw(self._request.raw_headers)
        signed = await signer.signed(method, target, given, body)
        lines = headers.to_upstream(signed, admitted.origin.host, None)
        start = b"%b %b HTTP/1.1\r\n" % (method.encode(), target)
        head = b"".join((start, *lines, b"\r\n", body))
        content, tap = self._request.content, self._tap
        return Upload(head, content, tap, b"", is_chunked=False, idle_timeout_s=timeout_s)

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
            self._agent.send(b"".join((_status_line(head), *lines, b"\r\n")))

    # The answer.

    async def _relay_answer(self, admitted: Admitted, connection: Connection, head: Head) -> None:
        """Pass head and body on, each piece as it arrives, each appended before it is released."""
        agent, tap = self._agent, self._tap
        is_chunked = self._is_http_1_1 and head.framing in (Framing.CHUNKED, Framing.CLOSE)
        out = self._answer_head(admitted, head, is_chunked)
        outcome = Outcome.COMPLETE if head.status < 400 else Outcome.UPSTREAM_ERROR

        def pass_on(piece: bytes) -> bool:
            """What the loop below does with a piece, without waking this task for it."""
            if agent.transport is None or agent.writing_paused:
                return False
            if tap is not None:
                tap.response(piece)
            agent.transport.write(chunk(piece) if is_chunked else piece)
            return True

        while not connection.is_drained:
            if out and not connection.has_piece:
                if tap is not None:
                    tap.release()
                agent.send(out)
                out = b""
            if not out:
                connection.pass_on(pass_on)
            piece = await connection.read()
            if not piece:
                break
            is_last = connection.is_drained
            if tap is not None:
                tap.response(piece, is_last=is_last)
            out += chunk(piece) if is_chunked else piece
            if is_last:
                break
            agent.send(out)
            out = b""
            if agent.writing_paused:
                await self._drain_agent()
        self._end(outcome)
        if tap is not None and self._relay.synced is not None:
            await self._relay.synced()
        if is_chunked:
            out += b"0\r\n\r\n"
        if out:
            agent.send(out)
        if agent.writing_paused:
            await self._drain_agent()
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
        elif head.framing in (Framing.CHUNKED, Framing.CLOSE):
            self._agent.ends_by_close = True
        if self._relay.is_draining or (self._upload is not None and not self._upload.is_whole):
            self._keeps_alive = False
        if not self._keeps_alive:
            lines.append(b"Connection: close\r\n")
        return b"".join((_status_line(head), *lines, b"\r\n"))

    async def _drain_agent(self) -> None:
        async with asyncio.timeout(self._relay.idle_timeout_s):
            await self._agent.drain()

    async def _switch(
        self, admitted: Admitted, connection: Connection, head: Head
    ) -> web.StreamResponse:
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
        self._agent.send(b"".join((_status_line(head), *lines, switch)))
        await tunnel(self._agent, connection, self._tap, self._end_socket)
        return Relayed(keeps_alive=False)

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

    async def _take_report(self, wanted: Reporting) -> Relayed:
        """Read, check and append a report. Nothing is begun before the body is whole."""
        relay, said, request = self._relay, wanted.labels, self._request
        given = fields.from_raw(request.raw_headers)
        is_parsed_alone = plans.is_parsed_alone(given)
        self._keeps_alive = self._is_http_1_1 and request.keep_alive and is_parsed_alone
        if plans.expects_continue(given):
            self._expect_continue()
            self._continue()
        try:
            limit = report.REPORT_BYTES_MAX
            body = await whole_body(request.content, b"", limit, relay.idle_timeout_s)
            kind = wanted.endpoint.name
            found = report.read(kind, body, project=said.project, session=said.session)
        except BodyFault as fault:
            return self._refuse_unrecorded(Refusal(fault.status, str(fault)))
        except ReportInvalid as error:
            return self._refuse_unrecorded(Refusal(400, str(error), param=error.field))
        if relay.sink is None:
            return self._refuse_unrecorded(_NO_SPOOL)
        content = relay.admission.content_of(found.project_id, wanted.wish)
        id = reporting.append(relay.sink, wanted, found, content, relay.salt)
        if isinstance(id, Refusal):
            return self._refuse_unrecorded(id)
        relay.stats.recorded += 1
        if relay.synced is not None:
            await relay.synced()
        keeps_alive = self._keeps_alive and not relay.is_draining
        if self._agent.transport is not None:
            self._agent.send(reporting.accepted(id, keeps_alive=keeps_alive))
        return Relayed(keeps_alive=keeps_alive)

    # Refusals and faults.

    def _answer_health(self) -> Relayed:
        if self._agent.transport is not None:
            self._agent.send(_HEALTHY)
        return Relayed(keeps_alive=False)

    def _refuse_unrecorded(self, refusal: Refusal, dialect: str | None = None) -> Relayed:
        self._relay.stats.refused += 1
        if dialect is not None:
            refusal = Refusal(refusal.status, refusal.text, dialect)
        if self._agent.transport is not None:
            self._agent.send(refusal_bytes(refusal))
        return Relayed(keeps_alive=False)

    def _answer_fault(self, admitted: Admitted, fault: UpstreamFault) -> Relayed:
        """Before the answer began: an error answer, recorded as what the agent saw. Else: cut."""
        outcome, refusal = fault.outcome, Refusal(fault.status, str(fault), admitted.dialect)
        if self._upload is not None and self._upload.fault is not None:
            outcome, mistake = Outcome.CLIENT_DISCONNECTED, self._upload.fault
            refusal = Refusal(mistake.status, mistake.text, admitted.dialect)
        if self._answer_began:
            self._end(outcome, refusal.text)
            self._agent.abort()
            return Relayed(keeps_alive=False)
        if self._tap is not None:
            self._tap.head(refusal.status, lambda: (("content-type", "application/json"),))
            self._tap.response(refusal.body, is_last=True)
        self._end(outcome, refusal.text)
        extra = [b"%b: %b\r\n" % (headers.ID, self._row_id.encode())] if self._row_id else []
        if self._agent.transport is not None:
            self._agent.send(refusal_bytes(refusal, *extra))
        return Relayed(keeps_alive=False)

    # The end.

    def _clean_up(self, admitted: Admitted) -> None:
        """Whatever happened: no task, no open record, no connection in an unknown state."""
        if self._patience is not None:
            self._patience.cancel()
        if self._upload is not None:
            self._upload.stop()
        if self._connection is not None:
            self._relay.upstreams[admitted.origin.name].give_back(self._connection)
        self._end(Outcome.PROXY_CRASHED, "an error inside the gateway")


_HEALTHY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n"
    b'Connection: close\r\n\r\n{"status":"ok"}'
)
_STOPPED = "the gateway was stopped during the call"
_VERSION = Refusal(400, "the request is not valid HTTP/1.1 or HTTP/1.0")
_NO_SPOOL = Refusal(503, "nothing is recorded; the gateway's log says why")
_FULL = Refusal(
    503, "the spool is full (spool.when_full = refuse); see agent-telemetry spool status"
)


def _status_line(head: Head) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)
