"""Conservation: captured = stored + waiting + quarantined + lost, as metrics.

The numbers come from the spools, where they are durable, in one snapshot per scrape; so the
identity holds in every scrape.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proxy.sums import Sums, oldest_waiting_s


class ConservationCollector(Collector):
    """Emits one snapshot."""

    def __init__(self, sums: Sums) -> None:
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
        yield lost_by_reason(
            "agent_telemetry_calls_lost", "Model calls that could not be kept, by reason.", sums
        )
        yield GaugeMetricFamily(
            "agent_telemetry_spool_bytes", "Size of the spool on disk.", value=sums.disk_bytes
        )
        yield GaugeMetricFamily(
            "agent_telemetry_spool_oldest_seconds",
            "Age of the oldest call that is not yet stored.",
            value=oldest_waiting_s(sums) or 0.0,
        )


def lost_by_reason(name: str, text: str, sums: Sums) -> Metric:
    """The calls that were lost, as a counter with a label."""
    lost = CounterMetricFamily(name, text, labels=("reason",))
    for reason, number in sorted(sums.lost.items()):
        lost.add_metric((reason,), number)
    return lost
