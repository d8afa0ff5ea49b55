"""Assemble: one exchange becomes one record. Where decode and enrich meet.

Pure but for the caches inside the redactor and the tokenizer. Whatever is in the exchange, there
is a record: what a stage cannot do is said in `capture.problems`, and where redaction fails the
record keeps metadata only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from decimal import Decimal

from proxy.call import Answer, Json, ModelCall, Prompt, Usage
from proxy.captured import packed
from proxy.config import Config
from proxy.decode.dispatch import DECODER_VERSION, decode
from proxy.enrich.cost import cost_usd
from proxy.enrich.digests import Digests
from proxy.enrich.facts import link_of, without_content
from proxy.enrich.histories import Histories
from proxy.enrich.media import Bare, extract, settle
from proxy.enrich.redact import Redactor, metadata_only
from proxy.enrich.sessions import Hints, Identity, identify
from proxy.enrich.tokens import TokenCounter
from proxy.exchange import End, Exchange, Outcome
from proxy.genai import TRACEPARENT
from proxy.labels import REQUEST_ID_HEADERS
from proxy.log import describe
from proxy.nouns import noun
from proxy.record import Beside, Blob, TelemetryRecord
from proxy.turn import Link

# The names in `capture` that follow from the exchange alone.
CAPTURED = frozenset(
    {"request_bytes", "response_bytes", "request_sha256", "response_sha256", "request_complete"}
    | {
        "truncated",
        "sanitized",
        "redactions",
        "session_source",
        "turn_label",
        "decoder",
        "hints",
        "context",
        "socket",
        "traceparent",
    }
    | {"response_id", "refusal", "choices", "media", "blobs", "problems", "content"}
)


@noun(frozen=True, slots=True)
class _Counted:
    """Token counts and where they come from."""

    usage: Usage
    source: str | None
    problems: tuple[str, ...] = ()


@noun(frozen=True, slots=True)
class Assembled:
    """A row, and what is stored together with it."""

    record: TelemetryRecord
    beside: Beside
    refusal: str | None = None  # why the exchange is to be set aside


class Assembler:
    """Turns exchanges into records under one configuration."""

    def __init__(self, config: Config, digests: Digests | None = None) -> None:
        """Without the database's digests the rows are not linked to conversations."""
        self._config = config
        self._digests = digests
        self.redactor = Redactor(config.redaction, digests)
        self._counter = TokenCounter()
        self._histories = Histories()
        self._bare = Bare()

    def assembled(self, exchange: Exchange, problems: Sequence[str] = ()) -> Assembled:
        """The row of one exchange, decoded, counted, priced, redacted, and what lies beside it.

        `problems` are those that were met before the exchange came here.
        """
        call = decode(exchange, self._config.capture.max_body_bytes)
        identity = identify(exchange.start, call.prompt)
        end = exchange.end or _crashed_end(exchange)
        outcome = _outcome(exchange, end, call)
        counted = self._counted(exchange, call)
        problems = [*call.problems, *counted.problems, *problems]
        price = cost_usd(
            exchange.start.upstream,
            call.model,
            counted.usage,
            self._config.prices,
            at=exchange.start.started_at,
        )
        record = _row(exchange, call, identity, end, outcome, counted, problems, price)
        record, blobs, link = self._redacted(record, exchange)
        is_kept = self._config.capture.raw == "all" and exchange.start.content == "full"
        return Assembled(record, Beside(blobs, packed(exchange) if is_kept else None, link))

    def given_up(self, exchange: Exchange, reason: str) -> Assembled:
        """A row of what the wire saw, without looking into any body."""
        call = ModelCall(Prompt(), Answer())
        identity = identify(exchange.start, call.prompt)
        end = exchange.end or _crashed_end(exchange)
        outcome = _outcome(exchange, end, call)
        record = _row(exchange, call, identity, end, outcome, _Counted(Usage(), None), [reason])
        record = _with_capture(metadata_only(record, with_labels=False), rejected=reason)
        return Assembled(record, Beside(), reason)

    def _counted(self, exchange: Exchange, call: ModelCall) -> _Counted:
        """Provider usage; otherwise, or where a stream broke off, the tokenizer's estimate."""
        usage = call.answer.usage
        if usage is not None and usage.is_final:
            return _Counted(usage, "provider")
        is_answered = exchange.head is not None and exchange.head.status < 400
        if not self._config.tokens.estimate or not is_answered:
            return _Counted(usage or Usage(), "partial_stream" if usage else None)
        estimate = self._counter.estimate(call, exchange.start.endpoint)
        if usage is None:
            prompt, completion = estimate.prompt_tokens, estimate.completion_tokens
            return _Counted(
                Usage(prompt, completion, prompt + completion), "tokenizer", estimate.problems
            )
        completion = max(estimate.completion_tokens, usage.completion_tokens or 0)
        known = usage.prompt_tokens
        prompt = estimate.prompt_tokens if known is None else known
        usage = replace(
            usage,
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
        )
        return _Counted(usage, "partial_stream", estimate.problems)

    def _redacted(
        self, record: TelemetryRecord, exchange: Exchange
    ) -> tuple[TelemetryRecord, tuple[Blob, ...], Link | None]:
        """The record without secrets and large media. Media are out of sight of the rules."""
        scan = self.redactor.scan(exchange.start)
        media_bytes = self._config.capture.media_bytes
        try:
            names = scan.names(record.chat_history)
            bare, taken = extract(record, scan.text, media_bytes, self._bare, names)
            clean = scan.record(bare)
        except Exception as error:  # noqa: BLE001 - fail closed for the data, open for the row
            noted = _noted(record, f"redaction failed: {describe(error)}")
            kept = metadata_only(noted, with_labels=False)
            return kept, (), self._linked(kept, ())[1]
        clean, link = self._linked(clean, scan.history)
        if scan.counts:
            clean = _with_capture(clean, redactions=dict(scan.counts))
        if exchange.start.content == "metadata":
            return metadata_only(clean), (), without_content(link) if link else None
        return *settle(clean, taken, media_bytes), link

    def _linked(
        self, record: TelemetryRecord, names: Sequence[bytes | None]
    ) -> tuple[TelemetryRecord, Link | None]:
        """The facts that linking will want; of a record it cannot read, what is sure."""
        if self._digests is None:
            return record, None
        try:
            return record, link_of(record, self._digests, self._histories, names)
        except Exception as error:  # noqa: BLE001  the fence: a bug here must not cost the row
            noted = _noted(record, f"facts not taken: {describe(error)}")
            return noted, link_of(metadata_only(record), self._digests)


def _row(
    exchange: Exchange,
    call: ModelCall,
    identity: Identity,
    end: End,
    outcome: Outcome,
    counted: _Counted,
    problems: list[str],
    price: Decimal | None = None,
) -> TelemetryRecord:
    start, prompt, answer, usage = exchange.start, call.prompt, call.answer, counted.usage
    ttft = answer.first_content_us
    return TelemetryRecord(
        id=start.id,
        created_at=start.started_at,
        project_id=identity.project,
        session_id=identity.session,
        user_message=prompt.user_message,
        model_used=call.model,
        system_prompt=prompt.system_prompt,
        chat_history=list(prompt.chat_history),
        response_text=answer.text,
        response_thoughts=answer.thoughts,
        tool_calls=[call.as_json() for call in answer.tool_calls] or None,
        turn_intent=identity.turn_intent,
        chat_mode=identity.chat_mode,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        duration_ms=end.at_us // 1000,
        provider=start.upstream,
        endpoint=start.endpoint,
        streamed=answer.is_stream if exchange.response else prompt.is_stream,
        status=exchange.head.status if exchange.head else None,
        outcome=outcome.value,
        error=answer.error or (None if outcome is Outcome.COMPLETE else end.error),
        finish_reason=answer.finish_reason,
        request_params=prompt.request_params,
        usage=answer.usage.raw if answer.usage else None,
        usage_source=counted.source,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_usd=price,
        ttft_ms=None if ttft is None else ttft // 1000,
        provider_request_id=_request_id(exchange),
        client=identity.client,
        parent_id=start.socket,
        labels=dict(identity.labels) or None,
        capture=_capture(exchange, call, identity, end, problems),
    )


def _outcome(exchange: Exchange, end: End, call: ModelCall) -> Outcome:
    """How the call ended, from what the wire saw and what the answer says.

    Whatever broke after the dialect's terminal event had been delivered, the agent saw a complete
    answer; so did an agent that closed with all output items it needed.
    """
    status = exchange.head.status if exchange.head else None
    if status is None:
        return end.outcome if end.outcome is not Outcome.COMPLETE else Outcome.UPSTREAM_RESET
    answer, ended = call.answer, end.outcome
    is_left = ended is Outcome.CLIENT_DISCONNECTED and status < 400
    if is_left and (answer.is_terminated or answer.has_finished_item):
        ended = Outcome.COMPLETE
    # An error answer that is whole may be the gateway's own, which says what happened instead.
    breaks = _BREAKS if status < 400 else (Outcome.PROXY_CRASHED,)
    if ended in breaks and answer.is_terminated:
        ended = Outcome.COMPLETE
    if ended is not Outcome.COMPLETE:
        return ended
    if status >= 400:
        return Outcome.UPSTREAM_ERROR
    return Outcome.STREAM_ERROR if answer.is_stream_error else Outcome.COMPLETE


_BREAKS = (Outcome.PROXY_CRASHED, Outcome.UPSTREAM_RESET, Outcome.UPSTREAM_TIMEOUT)


def _crashed_end(exchange: Exchange) -> End:
    """What the spool itself tells of a call whose gateway died before it ended."""
    body = exchange.response_body
    head_us = exchange.head.at_us if exchange.head else 0
    announced = exchange.request_header("content-length")
    return End(
        at_us=exchange.response[-1].at_us if exchange.response else head_us,
        outcome=Outcome.PROXY_CRASHED,
        request_bytes=len(exchange.request),
        response_bytes=len(body),
        request_sha256=hashlib.sha256(exchange.request).hexdigest(),
        response_sha256=hashlib.sha256(body).hexdigest(),
        request_complete=exchange.head is not None or announced == str(len(exchange.request)),
        request_kept=len(exchange.request),
        response_kept=len(body),
    )


def _capture(
    exchange: Exchange, call: ModelCall, identity: Identity, end: End, problems: list[str]
) -> dict[str, Json]:
    found: dict[str, Json] = {
        "request_bytes": end.request_bytes,
        "response_bytes": end.response_bytes,
        "decoder": DECODER_VERSION,
    }
    for side, digest in (
        ("request", exchange.request_sha256 or end.request_sha256),
        ("response", exchange.response_sha256 or end.response_sha256),
    ):
        if digest:  # else the body was cut before anybody had hashed it
            found[f"{side}_sha256"] = digest
    if truncated := _truncated(call, end):
        found["truncated"] = truncated
    if not end.request_complete:
        found["request_complete"] = False
    if identity.session_source:
        found["session_source"] = identity.session_source
    if identity.turn:
        found["turn_label"] = identity.turn
    if identity.hints != Hints():
        found["hints"] = {k: v for k, v in asdict(identity.hints).items() if v is not None}
    traceparent = exchange.request_header("traceparent")
    if traceparent and TRACEPARENT.fullmatch(traceparent):
        found["traceparent"] = traceparent
    if exchange.start.socket is not None:
        found["socket"] = str(exchange.start.socket)
    if call.prompt.is_partial_context:
        found["context"] = "partial"
    if call.answer.response_id:
        found["response_id"] = call.answer.response_id
    if call.answer.is_refusal:
        found["refusal"] = True
    if call.answer.choices:
        found["choices"] = list(call.answer.choices)
    if call.answer.media:
        found["media"] = list(call.answer.media)
    if problems:
        found["problems"] = list(problems)
    return found


def _truncated(call: ModelCall, end: End) -> dict[str, Json]:
    """Bytes of each body that were not kept on the wire; which were cut while decompressing."""
    dropped: dict[str, Json] = {
        "request": end.request_bytes - end.request_kept,
        "response": end.response_bytes - end.response_kept,
    }
    cut = {"request": call.prompt.is_truncated, "response": call.answer.is_truncated}
    if any(cut.values()):
        return {**dropped, "decoded": [side for side, is_cut in cut.items() if is_cut]}
    return dropped if any(dropped.values()) else {}


def _request_id(exchange: Exchange) -> str | None:
    named = (exchange.response_header(name) for name in REQUEST_ID_HEADERS)
    return next((value for value in named if value), None)


def _with_capture(record: TelemetryRecord, **more: Json) -> TelemetryRecord:
    return replace(record, capture={**(record.capture or {}), **more})


def _noted(record: TelemetryRecord, problem: str) -> TelemetryRecord:
    earlier = (record.capture or {}).get("problems")
    return _with_capture(
        record, problems=[*(earlier if isinstance(earlier, list) else []), problem]
    )
