"""Metrics of storage commitment. No UID, path, name or text from the wire is ever a label."""

import time
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dicom_listener.commitment.ledger import CommitmentLedger
from dicom_listener.commitment.records import RequestOutcome
from dicom_listener.errors import LedgerUnavailableError

REQUEST_RESULTS: Final = (
    *(outcome.value for outcome in RequestOutcome),
    "unknown_requester",
    "malformed",
    "too_large",
    LedgerUnavailableError.reason,
)


class CommitmentMetrics:
    """Counters of one listener, in one registry. Every label value exists from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "echobeam_listener_commitment_requests",
            "Requests of storage commitment, by what they were or why they were refused.",
            ["result"],
            registry=registry,
        )
        self.reports = Counter(
            "echobeam_listener_commitment_reports",
            "Attempts to report a commitment to its requester, by whether the requester took it.",
            ["result"],
            registry=registry,
        )
        self.instances = Counter(
            "echobeam_listener_commitment_instances",
            "Instances in reports that were taken, by whether safekeeping was promised.",
            ["result"],
            registry=registry,
        )
        for counter, results in (
            (self.requests, REQUEST_RESULTS),
            (self.reports, ("taken", "failed")),
            (self.instances, ("committed", "failed")),
        ):
            for result in results:
                counter.labels(result)


class CommitmentCollector(Collector):
    """Commitments by state and the age of the oldest that waits, asked of the ledger at each scrape."""

    def __init__(self, ledger: CommitmentLedger, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Name the metrics without asking the ledger."""
        yield _commitments_family()
        yield _age_family()

    def collect(self) -> Iterable[Metric]:
        """Ask the ledger. If it does not answer, these series are absent and the others still there."""
        try:
            counts = self._ledger.counts_by_state()
            age_s = self._ledger.oldest_pending_age_s(now=self._clock())
        except LedgerUnavailableError:
            return
        commitments = _commitments_family()
        for state, count in counts.items():
            commitments.add_metric([state], count)
        yield commitments
        age = _age_family()
        age.add_metric([], age_s)
        yield age


def _commitments_family() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "echobeam_listener_commitments",
        "Requests of storage commitment in the ledger, by state.",
        labels=["state"],
    )


def _age_family() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "echobeam_listener_commitment_age_seconds",
        "How long the oldest request of storage commitment has waited to be reported; 0 for none.",
    )
