"""Metrics: every Prometheus series this program emits, declared in one place.

Each process of the program writes its own files in a directory they share (prometheus-client's
multiprocess mode, chosen by `environment.share_metrics` before this module is imported); the admin
process adds them up. The conservation totals are not here: they are read from the spool, where
they are durable.

Labels are bounded: upstream names and endpoints come from the configuration and the code, a model
is a label only for the first `MODELS_MAX` that were seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from proxy.genai import operation_name, provider_name

if TYPE_CHECKING:  # a gateway knows of no rows
    from proxy.record import TelemetryRecord

MODELS_MAX = 100
SERIES_KEPT = 1024  # found again without prometheus-client's lock and checks
REASONS_MAX = 50
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
_TOKENS = tuple(4**n for n in range(1, 12))  # the buckets of the OpenTelemetry GenAI conventions


@dataclass(frozen=True, slots=True)
class GatewayMetrics:
    """What a gateway worker counts. Copied from its plain counters once a second."""

    requests: Counter
    connections: Gauge
    tap_faults: Counter
    loop_lag: Histogram

    @classmethod
    def create(cls) -> GatewayMetrics:
        registry = CollectorRegistry()
        return cls(
            Counter(
                "agent_telemetry_requests",
                "Requests answered by the gateway, by kind: recorded, passthrough, refused.",
                ("kind",),
                registry=registry,
            ),
            Gauge(
                "agent_telemetry_connections",
                "Open connections from agents.",
                registry=registry,
                multiprocess_mode="livesum",
            ),
            Counter(
                "agent_telemetry_tap_faults",
                "Exchanges whose recording stopped because of a fault; the calls went on.",
                registry=registry,
            ),
            Histogram(
                "agent_telemetry_loop_lag_seconds",
                "How late the gateway's event loop gets to what is due.",
                buckets=_LAG_SECONDS,
                registry=registry,
            ),
        )


class RecorderMetrics:
    """What the recorder observes of each call, and of the store."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        call_labels = ("gen_ai_provider_name", "gen_ai_operation_name", "gen_ai_response_model")
        self.calls = Counter(
            "agent_telemetry_calls",
            "Model calls by upstream, endpoint and outcome.",
            ("provider", "endpoint", "outcome"),
            registry=registry,
        )
        self.duration = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "From the arrival of the request to the last byte relayed.",
            call_labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the arrival of the request to the first content of a streamed answer.",
            call_labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a call by type: input (cached ones included) and output.",
            (*call_labels, "gen_ai_token_type"),
            buckets=_TOKENS,
            registry=registry,
        )
        self.store_faults = Counter(
            "agent_telemetry_store_faults",
            "Batches the database did not take, by kind: unavailable, misconfigured.",
            ("kind",),
            registry=registry,
        )
        self.rows_rejected = Counter(
            "agent_telemetry_rows_rejected",
            "Rows that PostgreSQL refused and that were set aside.",
            registry=registry,
        )
        self.problems = Counter(
            "agent_telemetry_decode_problems",
            "Calls with something that a decoder could not read, by endpoint.",
            ("endpoint",),
            registry=registry,
        )
        for kind in ("unavailable", "misconfigured"):  # from zero, so that the first is a rise
            self.store_faults.labels(kind)
        self._models: set[str] = set()
        self._labelled = lru_cache(SERIES_KEPT)(lambda metric, *labels: metric.labels(*labels))

    def observe(self, record: TelemetryRecord) -> None:
        """Count one call."""
        labelled = self._labelled
        provider, endpoint = record.provider or "unknown", record.endpoint or "unknown"
        labelled(self.calls, provider, endpoint, record.outcome or "unknown").inc()
        names = provider_name(record.provider, record.endpoint), operation_name(record.endpoint)
        labels = (*names, self._model(record.model_used))
        labelled(self.duration, *labels).observe(record.duration_ms / 1000)
        if record.ttft_ms is not None:
            labelled(self.first_token, *labels).observe(record.ttft_ms / 1000)
        if record.prompt_tokens is not None:
            labelled(self.tokens, *labels, "input").observe(record.prompt_tokens)
        if record.completion_tokens is not None:
            labelled(self.tokens, *labels, "output").observe(record.completion_tokens)
        if record.capture and record.capture.get("problems"):
            self.problems.labels(endpoint).inc()

    def _model(self, model: str) -> str:
        if model in self._models or len(self._models) < MODELS_MAX:
            self._models.add(model)
            return model[:100]
        return "other"


class LinkerMetrics:
    """What the linker observes of turns. Reasons are bounded: a tool's name is left out."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._reasons: set[str] = set()
        self.turns = Counter(
            "agent_telemetry_turns",
            "Turns that ended, by the reason that was known first.",
            ("stop_reason",),
            registry=registry,
        )
        self.corrected = Counter(
            "agent_telemetry_turns_corrected",
            "Turns that went on, or were judged otherwise, after they had been counted.",
            registry=registry,
        )
        self.rounds = Histogram(
            "agent_telemetry_turn_rounds",
            "Rounds of a turn.",
            buckets=(1, 2, 3, 5, 8, 13, 21, 34, 55, 89),
            registry=registry,
        )
        self.duration = Histogram(
            "agent_telemetry_turn_duration_seconds",
            "From the first request of a turn to the last byte of its last answer.",
            buckets=_SECONDS,
            registry=registry,
        )

    def observe(self, record: TelemetryRecord, *, is_new: bool) -> None:
        """Count one turn, when it is first known to have ended."""
        if not is_new:
            self.corrected.inc()
            return
        self.turns.labels(self._reason(record.stop_reason or "")).inc()
        self.rounds.observe(record.rounds or 0)
        self.duration.observe(record.duration_ms / 1000)

    def _reason(self, stop_reason: str) -> str:
        """The reason without a tool's name; orchestrators report words of their own."""
        reason = ":".join(stop_reason.split(":")[:2])[:100]
        if reason not in self._reasons and len(self._reasons) >= REASONS_MAX:
            return "other"
        self._reasons.add(reason)
        return reason


class TracingMetrics:
    """What became of spans that are sent to an OpenTelemetry endpoint."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.spans = Counter(
            "agent_telemetry_otel_spans",
            "Spans for the OpenTelemetry endpoint, by what became of them: sent, failed.",
            ("result",),
            registry=registry,
        )
        for result in ("sent", "failed"):
            self.spans.labels(result)
        self.dropped = Counter(
            "agent_telemetry_otel_dropped",
            "Calls and turns of which no span was made, because too many waited.",
            registry=registry,
        )
