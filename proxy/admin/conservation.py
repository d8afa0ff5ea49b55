"""Conservation: captured = stored + waiting + quarantined + lost, as metrics.

The numbers come from the spools, where they are durable, in one snapshot per scrape; so the
identity holds in every scrape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class SpoolSums(Protocol):
    """The totals of all spools of one machine, added up (`spool.totals.Totals`)."""

    @property
    def captured(self) -> int: ...
    @property
    def stored(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def quarantined(self) -> int: ...
    @property
    def lost(self) -> Mapping[str, int]: ...  # by reason
    @property
    def disk_bytes(self) -> int: ...
    @property
    def oldest_waiting_at(self) -> datetime | None: ...


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
            "agent_telemetry_spool_bytes", "Size of the spool on disk.", value=sums.disk_bytes
        )
        yield GaugeMetricFamily(
            "agent_telemetry_spool_oldest_seconds",
            "Age of the oldest call that is not yet stored.",
            value=_age_s(sums.oldest_waiting_at),
        )


def _age_s(since: datetime | None) -> float:
    return max(0.0, (datetime.now(UTC) - since).total_seconds()) if since else 0.0
