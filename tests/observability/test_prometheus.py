"""What this process counts can be read with and without Prometheus' client."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from gqlnotify.observability.prometheus import Plain, samples


def counters() -> list[Any]:
    return [Counter("refused", "x", ["reason"], registry=CollectorRegistry()), Plain()]


def histograms() -> list[Any]:
    return [Histogram("lag", "x", registry=CollectorRegistry()), Plain()]


@pytest.mark.parametrize("counter", counters(), ids=["prometheus", "plain"])
def test_a_counter_has_a_total_for_each_label(counter: Any) -> None:
    counter.labels("slow").inc()
    counter.labels("slow").inc(2)
    counter.labels("full").inc()

    found = {each.labels: each.value for each in samples(counter) if each.kind == "_total"}

    assert {k: v for k, v in found.items() if k} == {("slow",): 3, ("full",): 1}


@pytest.mark.parametrize("histogram", histograms(), ids=["prometheus", "plain"])
def test_a_histogram_has_a_sum_and_a_count(histogram: Any) -> None:
    histogram.observe(0.5)
    histogram.observe(0.25)

    found = {each.kind: each.value for each in samples(histogram)}

    assert (found["_sum"], found["_count"]) == (0.75, 2)
