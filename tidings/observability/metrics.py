"""Metrics as Prometheus reads them: the parts' plain counters, made into families at a scrape.

Nothing on a hot path knows of this: parts count in plain numbers, and a scrape reads them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tidings.streams.support.histogram import Histogram

S = TypeVar("S")

Sample = tuple[Sequence[str], float]
"""The labels' values and the number."""
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Family(Generic[S]):
    """One metric: what it is called, what it means, and where it is read."""

    name: str
    """Of a counter with its `_total`."""
    kind: Kind
    text: str
    read: Callable[[S], Any]
    """From the source: a number; with labels samples; of a histogram pairs of labels and
    `Histogram`."""
    labels: tuple[str, ...] = ()

    def metric(self, source: S) -> Metric:
        """The metric as it stands."""
        value = self.read(source)
        if self.kind == "histogram":
            found = HistogramMetricFamily(self.name, self.text, labels=self.labels)
            pairs: Iterable[tuple[Sequence[str], Histogram]] = (
                value if self.labels else [((), value)]
            )
            for labels, histogram in pairs:
                buckets = [
                    ("+Inf" if bound == float("inf") else repr(bound), n)
                    for bound, n in histogram.cumulative()
                ]
                found.add_metric(labels, buckets, histogram.total)
            return found
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        plain = kind(self.name, self.text, labels=self.labels)
        samples: Iterable[Sample] = value if self.labels else [((), value)]
        for labels, number in samples:
            plain.add_metric(labels, number)
        return plain


def process_registry() -> CollectorRegistry:
    """A registry of a service's own, with what is known of its process.

    Two services in one process count apart, and neither shows in the registry of a host program.
    """
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


def by_name(numbers: Mapping[Any, float]) -> list[Sample]:
    """Samples with one label out of a mapping."""
    return [((str(name),), number) for name, number in sorted(numbers.items())]


class Exposition(Collector):
    """The families of the parts that run, read at each scrape."""

    def __init__(self) -> None:
        self._sources: list[tuple[Sequence[Family[Any]], Any]] = []

    def add(self, families: Sequence[Family[S]], source: S) -> None:
        """Show these families, read from this source."""
        self._sources.append((families, source))

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is registered is not read for it."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Every metric as it stands."""
        for families, source in self._sources:
            for family in families:
                yield family.metric(source)
