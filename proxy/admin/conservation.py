"""Conservation: captured = stored + waiting + quarantined + lost, as metrics.

The numbers come from the spools, where they are durable, in one snapshot per scrape; so the
identity holds in every scrape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class SpoolSums:
    """The totals of all spools of one machine, added up."""

    captured: int = 0
    stored: int = 0
    waiting: int = 0
    quarantined: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)  # by reason
    bytes_on_disk: int = 0
    oldest_waiting_s: float = 0.0


class ConservationCollector(Collector):
    """Emits one snapshot."""

    def __init__(self, sums: SpoolSums) -> None:
        self._sums = sums

    def collect(self) -> Iterator[Metric]:
        sums = self._sums
        yield CounterMetricFamily(
            "agent_telemetry_calls_captured",
            "Model calls of which a record was begun, ever.",
            value=sums.captured,
        )
        yield CounterMetricFamily(
            "agent_telemetry_calls_stored", "Model calls whose row is committed.", value=sums.stored
        )
        yield GaugeMetricFamily(
            "agent_telemetry_calls_waiting",
            "Model calls in the spool: still open, or not yet stored.",
            value=sums.waiting,
        )
        yield GaugeMetricFamily(
            "agent_telemetry_calls_quarantined",
            "Model calls set aside because their row was refused.",
            value=sums.quarantined,
        )
        lost = CounterMetricFamily(
            "agent_telemetry_calls_lost",
            "Model calls that could not be kept, by reason.",
            labels=("reason",),
        )
        for reason, number in sorted(sums.lost.items()):
            lost.add_metric((reason,), number)
        yield lost
        yield GaugeMetricFamily(
            "agent_telemetry_spool_bytes", "Size of the spool on disk.", value=sums.bytes_on_disk
        )
        yield GaugeMetricFamily(
            "agent_telemetry_spool_oldest_seconds",
            "Age of the oldest call that is not yet stored.",
            value=sums.oldest_waiting_s,
        )
