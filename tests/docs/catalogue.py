"""Every metric that the program declares: name as scraped, type, labels, what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.metrics import MetricWrapperBase

from proxy import metrics
from proxy.admin.conservation import ConservationCollector
from proxy.admin.fleet import FleetCollector
from proxy.spool.totals import Totals
from proxy.sums import Member

PROCESSES = {
    "gateway": metrics.GatewayMetrics.create,
    "recorder": metrics.RecorderMetrics,
    "linker": metrics.LinkerMetrics,
    "tracing": metrics.TracingMetrics,
}


@dataclass(frozen=True)
class Declared:
    name: str  # with _total; a histogram's without _bucket, _sum and _count
    kind: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def series(self) -> set[str]:
        """The names that stand in a scrape."""
        if self.kind != "histogram":
            return {self.name}
        return {f"{self.name}_{part}" for part in ("bucket", "sum", "count")}


def declared() -> list[Declared]:
    """All of them, by name."""
    found = [*_read()]
    for create in PROCESSES.values():
        made = create()
        names = getattr(made, "__slots__", None) or vars(made)
        members = (getattr(made, name) for name in names)
        found += [_declared(each) for each in members if isinstance(each, MetricWrapperBase)]
    return sorted(found, key=lambda each: each.name)


def _declared(metric: MetricWrapperBase) -> Declared:
    (family,) = metric.describe()
    return _named(family.name, family.type, tuple(metric._labelnames), family.documentation)


@dataclass(frozen=True)
class _Fleet:
    """A fleet without members, in whose reading every metric stands."""

    captured: int = 0
    stored: int = 0
    waiting: int = 0
    quarantined: int = 0
    lost: Mapping[str, int] = field(default_factory=lambda: {"disk_full": 0})
    gateways: Sequence[Member] = ()
    recorders: Sequence[Member] = ()
    messages_in_stream: int = 0
    stream_bytes: int = 0
    not_known: Mapping[str, int] = field(default_factory=dict)


def _read() -> Iterator[Declared]:
    """What is not counted by a process but read at each scrape."""
    collectors = ConservationCollector(Totals(lost={"disk_full": 0})), FleetCollector(_Fleet(), 0)
    for family in (family for collector in collectors for family in collector.collect()):
        labels = tuple(family.samples[0].labels)
        yield _named(family.name, family.type, labels, family.documentation)


def _named(name: str, kind: str, labels: tuple[str, ...], meaning: str) -> Declared:
    return Declared(f"{name}_total" if kind == "counter" else name, kind, labels, meaning)
