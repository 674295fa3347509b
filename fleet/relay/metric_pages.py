"""Many replicas' metrics as one page: every sample with its replica's name as a label. Knows no metric."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

REPLICA_LABEL = "replica"


def merged_pages(pages: Mapping[str, str]) -> str:
    """One page in Prometheus' text format out of pages by replica."""
    families: dict[str, Metric] = {}
    for replica, page in sorted(pages.items()):
        for found in text_string_to_metric_families(page):
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            for sample in found.samples:
                labels = {**sample.labels, REPLICA_LABEL: replica}
                family.add_sample(sample.name, labels, sample.value)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(list(families.values())))
    return generate_latest(registry).decode()


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """What the page shows."""
        return self._families
