"""Metrics of the spool's keeping: what was found at the start, what is lost, what was deleted."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger import Ledger
from dicom_listener.spool.reconcile import ReconcileReport
from dicom_listener.spool.retention import PrunedStudy


class KeepingMetrics:
    """Counters of one listener, in one registry. Every label value exists from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reconciled_files = Counter(
            "echobeam_listener_reconciled_files",
            "Files that spool and ledger did not agree about at the start, by what was found or done.",
            ["result"],
            registry=registry,
        )
        self.pruned_files = Counter(
            "echobeam_listener_pruned_files",
            "Files that were deleted from the spool by the rules of retention.",
            registry=registry,
        )
        self.pruned_bytes = Counter(
            "echobeam_listener_pruned_bytes",
            "Bytes of the files that were deleted from the spool by the rules of retention.",
            registry=registry,
        )
        for result in ReconcileReport().differences():
            self.reconciled_files.labels(result)

    def observe_reconciliation(self, report: ReconcileReport) -> None:
        """Count what was found at the start."""
        for result, files in report.differences().items():
            self.reconciled_files.labels(result).inc(files)

    def observe_pruned(self, study: PrunedStudy) -> None:
        """Count what was deleted of a study."""
        self.pruned_files.inc(study.files)
        self.pruned_bytes.inc(study.size_bytes)


class LostFilesCollector(Collector):
    """Files that are missing or damaged, asked of the ledger at each scrape."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def describe(self) -> Iterable[Metric]:
        """Name the metric without asking the ledger."""
        yield _lost_files_family()

    def collect(self) -> Iterable[Metric]:
        """Ask the ledger. If it does not answer, the series is absent and the others still there."""
        try:
            counts = self._ledger.counts_by_file_state()
        except LedgerUnavailableError:
            return
        lost = _lost_files_family()
        for state, count in counts.items():
            lost.add_metric([state], count)
        yield lost


def _lost_files_family() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "echobeam_listener_lost_files",
        "Files of the spool that are known to be missing, or not what was received.",
        labels=["state"],
    )
