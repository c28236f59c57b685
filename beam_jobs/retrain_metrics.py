"""The metrics of one nightly run, for a Pushgateway: the job is over before anyone could scrape it."""

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, pushadd_to_gateway

from echo_models.gate import Decision

JOB: Final = "echobeam-retrain"
PUSH_TIMEOUT_S: Final = 10.0


class RetrainMetrics:
    """What one run has to tell.

    What a run does not know it does not push, so the gateway keeps what the last run that knew it
    said: a failed night leaves the time of the last success.

    Args:
        task: of the model; each task's metrics have a group of their own at the gateway, with this label.

    Attributes:
        registry: holds the metrics that were set.
    """

    def __init__(self, task: str = "lvh") -> None:
        self.registry = CollectorRegistry()
        self._task = task
        self._decision = Gauge(
            "echobeam_retrain_decision",
            "1 for what the last run decided, 0 for what it did not.",
            ["decision"],
            registry=None,
        )
        self._duration = Gauge(
            "echobeam_retrain_duration_seconds", "How long the last run took.", registry=None
        )
        self._last_run = Gauge(
            "echobeam_retrain_last_run_timestamp_seconds", "When the last run ended, however.", registry=None
        )
        self._last_success = Gauge(
            "echobeam_retrain_last_success_timestamp_seconds",
            "When a run last came to a decision, whatever the decision.",
            registry=None,
        )
        self._pool_frames = Gauge(
            "echobeam_retrain_pool_frames", "Frames in the unlabeled pool of the last run.", registry=None
        )
        self._pool_dropped_frames = Gauge(
            "echobeam_retrain_pool_dropped_frames",
            "Stored frames that did not go into the pool, by the first rule that dropped them.",
            ["rule"],
            registry=None,
        )
        self._accuracy = Gauge(
            "echobeam_retrain_accuracy_ratio",
            "Accuracy on the fixed labeled set, of the model in production before and of the new one.",
            ["model"],
            registry=None,
        )
        self._check = Gauge(
            "echobeam_retrain_gate_check",
            "1 for what the new model of the last run satisfied of the gate, 0 for what it did not.",
            ["check"],
            registry=None,
        )
        self._number = Gauge(
            "echobeam_retrain_gate_ratio",
            "The numbers the gate decided by in the last run, as the history of the registry names them.",
            ["number"],
            registry=None,
        )

    def ended(self, decision: str, *, decisions: tuple[str, ...], duration_s: float, now: float) -> None:
        """Say how the run ended.

        Args:
            decision: one of `decisions`.
            decisions: all there are.
            duration_s: of the whole run.
            now: seconds since the epoch.
        """
        for name in decisions:
            self._decision.labels(name).set(name == decision)
        self._duration.set(duration_s)
        self._last_run.set(now)
        self._tell(self._decision, self._duration, self._last_run)

    def succeeded(self, now: float) -> None:
        """Say that the run came to a decision, at `now` in seconds since the epoch."""
        self._last_success.set(now)
        self._tell(self._last_success)

    def built_pool(self, frames: int, dropped: Mapping[str, int]) -> None:
        """Say what the pool is: its frames, and the dropped ones by rule."""
        self._pool_frames.set(frames)
        for rule, count in dropped.items():
            self._pool_dropped_frames.labels(rule).set(count)
        self._tell(self._pool_frames, self._pool_dropped_frames)

    def judged(self, *, candidate: float, production: float | None) -> None:
        """Say the accuracy of the new model and of the one in production (None if there was none)."""
        self._accuracy.labels("candidate").set(candidate)
        if production is not None:
            self._accuracy.labels("production").set(production)
        self._tell(self._accuracy)

    def decided(self, decision: Decision) -> None:
        """Say what the gate asked, and the numbers it decided by."""
        for check in decision.checks:
            self._check.labels(check.name).set(check.passed)
        for name, value in decision.numbers.items():
            if name != "n":
                self._number.labels(name).set(value)
        self._tell(self._check, self._number)

    def push(self, url: str) -> None:
        """Send what was set; metrics that were not set stay as they are at the gateway.

        Raises:
            OSError: the gateway cannot be reached or refuses.
        """
        grouping = {"task": self._task}
        pushadd_to_gateway(url, JOB, self.registry, grouping_key=grouping, timeout=PUSH_TIMEOUT_S)

    def _tell(self, *metrics: Gauge) -> None:
        for metric in metrics:
            self.registry.register(metric)
