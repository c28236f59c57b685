"""The worker's metrics. Labels come from closed lists: views, reason codes, outcomes, models."""

import functools
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from beam_jobs.records import QuarantineReason, Reason, WrittenStudy
from beam_jobs.schemas import CONFIDENCE_TENTHS, UNKNOWN_VIEW
from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger import Ledger, StudyState
from echo_models.views import VIEWS

BATCH_OUTCOMES: Final = ("done", "failed")
STUDY_OUTCOMES: Final = ("written", "claim_lost", "attempt_failed", "quarantined")

_BATCH_BUCKETS_S: Final = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800)


class WorkerMetrics:
    """Counters and gauges of the worker, in one registry. Every label value exists from the start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.batches = Counter(
            "echobeam_worker_batches",
            "Batches of studies processed, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self.batch_duration = Histogram(
            "echobeam_worker_batch_duration_seconds",
            "Time from claiming a batch to its end.",
            buckets=_BATCH_BUCKETS_S,
            registry=registry,
        )
        self.studies = Counter(
            "echobeam_worker_studies",
            "Studies processed, by outcome of the attempt.",
            ["outcome"],
            registry=registry,
        )
        self.frames = Counter(
            "echobeam_worker_frames", "Frames written, by view.", ["view"], registry=registry
        )
        self.rejections = Counter(
            "echobeam_worker_rejections",
            "Instances rejected, or the rest of them, by reason.",
            ["reason"],
            registry=registry,
        )
        self.quarantines = Counter(
            "echobeam_worker_quarantines",
            "Studies of which nothing was released, though they were processed, by reason.",
            ["reason"],
            registry=registry,
        )
        self.view_confidence = ConfidenceCollector()
        registry.register(self.view_confidence)
        self.model = Gauge(
            "echobeam_worker_model_info",
            "1 for each model that the last written study used.",
            ["model"],
            registry=registry,
        )
        self.last_success = Gauge(
            "echobeam_worker_last_success_timestamp_seconds",
            "When a study was last written, seconds since the epoch; 0 for never.",
            registry=registry,
        )
        self.queue = Gauge(
            "echobeam_worker_queue_studies", "Complete studies that wait to be claimed.", registry=registry
        )
        self.queue_age = Gauge(
            "echobeam_worker_queue_age_seconds",
            "How long the oldest complete study has waited; 0 for none.",
            registry=registry,
        )
        for outcome in BATCH_OUTCOMES:
            self.batches.labels(outcome)
        for outcome in STUDY_OUTCOMES:
            self.studies.labels(outcome)
        for view in (*VIEWS, UNKNOWN_VIEW):
            self.frames.labels(view)
        for reason in Reason:
            self.rejections.labels(reason.value)
        for why in QuarantineReason:
            self.quarantines.labels(why.value)

    def watch_queue(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        """Ask the ledger for the queue at each scrape; NaN where it does not answer."""

        def asked(question: Callable[[], float]) -> Callable[[], float]:
            def answer() -> float:
                try:
                    return question()
                except LedgerUnavailableError:
                    return math.nan

            return answer

        self.queue.set_function(asked(lambda: ledger.counts_by_state()[StudyState.COMPLETE]))
        self.queue_age.set_function(asked(lambda: ledger.oldest_complete_age_s(now=clock())))

    def observe_study(self, study: WrittenStudy, *, now: float) -> None:
        """Count a study that came to its end.

        Args:
            study: what was written of it.
            now: seconds since the epoch.
        """
        if study.committed and study.quarantined is not None:
            self.studies.labels("quarantined").inc()
            self.quarantines.labels(study.quarantined.value).inc()
            return
        self.studies.labels("written" if study.committed else "claim_lost").inc()
        if not study.committed:
            return
        for view, count in study.frames_by_view.items():
            self.frames.labels(view).inc(count)
        for reason, count in study.rejections_by_reason.items():
            self.rejections.labels(reason).inc(count)
        self.view_confidence.add(study.confidence_counts, study.confidence_sum)
        if study.models:
            self.model.clear()
        for model in study.models:
            self.model.labels(model).set(1)
        self.last_success.set(now)


class ConfidenceCollector(Collector):
    """A histogram that takes a study's frames at once, already counted by tenths."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * CONFIDENCE_TENTHS
        self._sum = 0.0

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add frames.

        Args:
            counts: number of frames in each tenth of confidence, ten entries.
            total: sum of their confidences.
        """
        with self._lock:
            self._counts = [old + new for old, new in zip(self._counts, counts, strict=True)]
            self._sum += total

    def collect(self) -> Iterable[Metric]:
        """Give the one histogram."""
        with self._lock:
            counts, total = self._counts, self._sum
        buckets = [
            (str((tenth + 1) / CONFIDENCE_TENTHS), sum(counts[: tenth + 1]))
            for tenth in range(CONFIDENCE_TENTHS)
        ]
        family = HistogramMetricFamily(
            "echobeam_worker_view_confidence_ratio", "Probability of each frame's view, of frames written."
        )
        family.add_metric([], [*buckets, ("+Inf", sum(counts))], total)
        yield family


@functools.cache
def process_metrics() -> WorkerMetrics:
    """Give the metrics of this process: a pipeline's steps are pickled and can hold none."""
    return WorkerMetrics(CollectorRegistry())
