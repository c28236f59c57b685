"""Metrics of the ledger: how many studies are in which state, and how long the oldest has waited."""

import time
from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger import Ledger


class LedgerCollector(Collector):
    """Studies by state and the age of the queue, asked of the ledger at each scrape."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Name the metrics without asking the ledger."""
        yield _studies_family()
        yield _queue_age_family()

    def collect(self) -> Iterable[Metric]:
        """Ask the ledger. If it does not answer, these series are absent and the others still there."""
        try:
            counts = self._ledger.counts_by_state()
            age_s = self._ledger.oldest_complete_age_s(now=self._clock())
        except LedgerUnavailableError:
            return
        studies = _studies_family()
        for state, count in counts.items():
            studies.add_metric([state], count)
        yield studies
        queue_age = _queue_age_family()
        queue_age.add_metric([], age_s)
        yield queue_age


def _studies_family() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "echobeam_listener_studies", "Studies in the ledger, by state.", labels=["state"]
    )


def _queue_age_family() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "echobeam_listener_queue_age_seconds", "How long the oldest complete study has waited; 0 for none."
    )
