"""Fleet metrics: the sums over all gateways and recorders, under names of their own.

Each machine's admin listener shows its own spool as `agent_telemetry_calls_…`; whichever reaches
NATS shows the whole fleet as `agent_telemetry_fleet_…`. Scrape one of them for the latter.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proxy.admin.conservation import lost_by_reason
from proxy.sums import Fleet


class FleetCollector(Collector):
    """Emits one reading; without one, that there is none."""

    def __init__(self, fleet: Fleet | None, stored_before: int) -> None:
        self._fleet = fleet
        self._stored_before = stored_before

    def collect(self) -> Iterator[Metric]:
        fleet = self._fleet
        yield GaugeMetricFamily(
            "agent_telemetry_fleet_up",
            "Whether NATS answered this scrape.",
            value=int(fleet is not None),
        )
        if fleet is not None:
            yield from self._sums(fleet)
            yield from _members(fleet)
            yield from _stream(fleet)

    def _sums(self, fleet: Fleet) -> Iterator[Metric]:
        # A reading may be a second behind another; a counter must not go back.
        stored = max(fleet.stored, self._stored_before)
        for name, text, value in (
            (
                "captured",
                "Model calls of which a record was begun, on all gateways.",
                fleet.captured,
            ),
            ("stored", "Model calls whose row is committed.", stored),
        ):
            yield CounterMetricFamily(f"agent_telemetry_fleet_calls_{name}", text, value=value)
        yield lost_by_reason(
            "agent_telemetry_fleet_calls_lost",
            "Model calls that could not be kept, on all gateways, by reason.",
            fleet,
        )
        yield GaugeMetricFamily(
            "agent_telemetry_fleet_calls_waiting",
            "Model calls in spools and in the stream.",
            value=fleet.waiting + fleet.stored - stored,
        )
        yield GaugeMetricFamily(
            "agent_telemetry_fleet_calls_quarantined",
            "Model calls set aside, by recorders and on gateways.",
            value=fleet.quarantined,
        )


def _members(fleet: Fleet) -> Iterator[Metric]:
    for role, members in (("gateways", fleet.gateways), ("recorders", fleet.recorders)):
        found = GaugeMetricFamily(
            f"agent_telemetry_fleet_{role}", f"Known {role}, by state.", labels=("state",)
        )
        silent = sum(member.is_silent for member in members)
        found.add_metric(("live",), len(members) - silent)
        found.add_metric(("silent",), silent)
        yield found


def _stream(fleet: Fleet) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "agent_telemetry_fleet_stream_messages",
        "Messages in the stream that no recorder has acknowledged.",
        value=fleet.messages_in_stream,
    )
    yield GaugeMetricFamily(
        "agent_telemetry_fleet_stream_bytes", "Size of the stream.", value=fleet.stream_bytes
    )
    yield GaugeMetricFamily(
        "agent_telemetry_fleet_messages_not_known",
        "Messages of a later version, which wait for a newer recorder.",
        value=sum(fleet.not_known.values()),
    )
