"""The numbers of a worker as Prometheus reads them. Imported only when they are served."""

from __future__ import annotations

from itertools import accumulate
from math import isnan
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from .series import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from .series import Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposed(totals: Mapping[str, Sequence[float]]) -> bytes:
    """Return the page of `totals`, the numbers of each series by its name (`Ledger.totals`)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(totals))
    return generate_latest(registry)


class _Page(Collector):
    def __init__(self, totals: Mapping[str, Sequence[float]]) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        for series in CATALOGUE:
            yield _FAMILIES[series.kind](series, self._totals[series.name])


def _counter(series: Series, numbers: Sequence[float]) -> Metric:
    family = CounterMetricFamily(series.name, series.help, labels=series.labels)
    for label, number in zip(series.values, numbers, strict=True):
        if number or not any(label[1:]):  # of a pair the first alone: the others as they come
            family.add_metric(label, number)
    return family


def _gauge(series: Series, numbers: Sequence[float]) -> Metric:
    family = GaugeMetricFamily(series.name, series.help, labels=series.labels)
    for label, number in zip(series.values, numbers, strict=True):
        if not isnan(number):
            family.add_metric(label, number)
    return family


def _histogram(series: Series, numbers: Sequence[float]) -> Metric:
    *counts, total = numbers
    bounds = [*map(str, series.bounds), "+Inf"]
    family = HistogramMetricFamily(series.name, series.help)
    family.add_metric([], list(zip(bounds, accumulate(counts), strict=True)), total)
    return family


_FAMILIES = {"counter": _counter, "gauge": _gauge, "histogram": _histogram}
