"""An OpenTelemetry collector's stand-in: takes OTLP over HTTP and keeps what came."""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.serving import serving


@dataclass(frozen=True)
class Received:
    """A span as it arrived: ids in hex, instants in nanoseconds."""

    name: str
    kind: int
    trace: str
    span: str
    parent: str
    started_ns: int
    ended_ns: int
    attributes: dict
    is_error: bool


@dataclass
class Receiver:
    url: str = ""
    status: int = 200
    spans: list[Received] = field(default_factory=list)
    metrics: dict[str, list] = field(default_factory=dict)  # name → points
    resource: dict = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def named(self, start: str) -> list[Received]:
        return [span for span in self.spans if span.name.startswith(start)]

    async def traces(self, request: web.Request) -> web.Response:
        found = ExportTraceServiceRequest.FromString(await _body(request))
        self.headers = dict(request.headers)
        if self.status == 200:
            for group in found.resource_spans:
                self.resource = _values(group.resource.attributes)
                for scope in group.scope_spans:
                    self.spans += map(_received, scope.spans)
        return web.Response(status=self.status)

    async def measurements(self, request: web.Request) -> web.Response:
        found = ExportMetricsServiceRequest.FromString(await _body(request))
        for group in found.resource_metrics:
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    self.metrics[metric.name] = list(metric.histogram.data_points)
        return web.Response(status=self.status)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/traces", receiver.traces)
    app.router.add_post("/v1/metrics", receiver.measurements)
    async with serving(app) as receiver.url:
        yield receiver


async def _body(request: web.Request) -> bytes:
    body = await request.read()
    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


def _received(span) -> Received:
    return Received(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        span.status.code == 2,
    )


def _values(attributes) -> dict:
    return {each.key: _value(each.value) for each in attributes}


def _value(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)
