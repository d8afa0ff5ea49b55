"""Sender: spans and measurements to an OTLP endpoint, by the official SDK.

The only module that imports the SDK (extra `otel`); it is imported where an endpoint is configured.
Blocking: run it in a thread. Spans go in one request per batch; measurements are added up here and
sent each minute by the SDK's own thread. What the endpoint does not take is counted by whoever
calls, and not kept: the table is the truth.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator

from proxy.config import Otel
from proxy.otel.measured import INSTRUMENTS, Measured
from proxy.otel.span import Context, Span

SCOPE = "agent-telemetry"
MEASURED_EVERY_MS = 60_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS = {"client": trace.SpanKind.CLIENT, "internal": trace.SpanKind.INTERNAL}


class Sender:
    """One endpoint. Raises nothing for what happens at it."""

    def __init__(self, settings: Otel, version: str) -> None:
        # Its lines may quote an endpoint's answer; failures are counted and told by us.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        resource = Resource.create(
            {"service.name": settings.service_name, "service.version": version}
        )
        headers = settings.header_fields
        self._ids, self._ended = _Ids(), _Ended()
        self._traces = TracerProvider(
            resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._traces.add_span_processor(self._ended)
        self._tracer = self._traces.get_tracer(SCOPE, version)
        self._exporter = OTLPSpanExporter(
            f"{settings.endpoint}/v1/traces", headers=headers, timeout=settings.timeout_s
        )
        exporter = OTLPMetricExporter(
            f"{settings.endpoint}/v1/metrics", headers=headers, timeout=settings.timeout_s
        )
        reader = PeriodicExportingMetricReader(exporter, MEASURED_EVERY_MS)
        self._meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        meter = self._meters.get_meter(SCOPE, version)
        self._instruments = {
            each.name: meter.create_histogram(
                each.name,
                each.unit,
                each.description,
                explicit_bucket_boundaries_advisory=each.bounds,
            )
            for each in INSTRUMENTS
        }

    def send(self, spans: Iterable[Span]) -> tuple[int, int]:
        """Send spans in one request; how many were sent, and how many were not taken.

        A span that its agent does not sample (its traceparent says so) is neither.
        """
        for span in spans:
            self._record(span)
        ready = self._ended.taken()
        if not ready:
            return 0, 0
        is_sent = self._exporter.export(ready) is SpanExportResult.SUCCESS
        return (len(ready), 0) if is_sent else (0, len(ready))

    def measure(self, measured: Iterable[Measured]) -> None:
        """Add to the measurements."""
        for each in measured:
            self._instruments[each.name].record(each.value, each.labels)

    def close(self, seconds: float) -> None:
        """Send what was measured, and end."""
        self._meters.shutdown(seconds * 1000)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # untyped in the SDK
        self._traces.shutdown()

    def _record(self, span: Span) -> None:
        """Let the SDK make this span, with the ids that it is to have."""
        self._ids.next = span.context
        made = self._tracer.start_span(
            span.name,
            _within(span.parent) if span.parent else otel.Context(),
            _KINDS[span.kind],
            dict(span.attributes),
            start_time=_nanoseconds(span.started_at),
        )
        if span.error is not None:
            made.set_status(trace.Status(trace.StatusCode.ERROR, span.error))
        made.end(_nanoseconds(span.ended_at))


class _Ids(IdGenerator):
    """Gives the SDK the ids that the next span is to have."""

    def __init__(self) -> None:
        self.next = Context(0, 0)

    def generate_trace_id(self) -> int:
        return self.next.trace

    def generate_span_id(self) -> int:
        return self.next.span


class _Ended(SpanProcessor):
    """Keeps what has ended until it is sent."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def taken(self) -> Sequence[ReadableSpan]:
        found, self._spans = self._spans, []
        return found


def _within(parent: Context) -> otel.Context:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if parent.is_sampled else 0)
    where = trace.SpanContext(parent.trace, parent.span, is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(where))


def _nanoseconds(instant: datetime) -> int:
    """Since the epoch, exact: a float does not hold them."""
    return (instant - _EPOCH) // timedelta(microseconds=1) * 1000
