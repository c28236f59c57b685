"""Metrics of what we ask of others. No UID, path, name or text from the wire is ever a label."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter

QUERY_RESULTS: Final = ("counted", "not_counted", "failed")


class EvidenceMetrics:
    """Counters of one listener, in one registry. Every label value exists from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queries = Counter(
            "echobeam_listener_completion_queries",
            "Questions to the query peer how many instances a study has, by answer.",
            ["result"],
            registry=registry,
        )
        for result in QUERY_RESULTS:
            self.queries.labels(result)
