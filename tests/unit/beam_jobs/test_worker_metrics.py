import math
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from beam_jobs.metrics import WorkerMetrics
from beam_jobs.records import QuarantineReason, Reason, WrittenStudy
from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger import Ledger
from dicom_listener.ledger.completion import CompletionRule
from echo_models.views import VIEWS


def written(**changes: object) -> WrittenStudy:
    values = {
        "claim_token": "s",
        "revision": 1,
        "committed": True,
        "quarantined": None,
        "clips": 2,
        "frames": 3,
        "frames_by_view": {"a4c": 2, "plax": 1},
        "confidence_counts": (0, 0, 0, 0, 1, 0, 0, 0, 0, 2),
        "confidence_sum": 2.4,
        "rejections_by_reason": {"no_pixels": 1},
        "models": ("fov-1", "view-2"),
        **changes,
    }
    return WrittenStudy(**values)  # type: ignore[arg-type]


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics(CollectorRegistry())


def value(metrics: WorkerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_every_label_value_is_there_from_the_start(metrics: WorkerMetrics) -> None:
    assert {value(metrics, "echobeam_worker_frames_total", view=view) for view in VIEWS} == {0.0}
    assert {value(metrics, "echobeam_worker_rejections_total", reason=reason.value) for reason in Reason} == {
        0.0
    }


def test_a_written_study_is_counted(metrics: WorkerMetrics) -> None:
    metrics.observe_study(written(), now=5.0)
    metrics.observe_study(written(models=("fov-1", "view-3")), now=6.0)
    assert value(metrics, "echobeam_worker_studies_total", outcome="written") == 2
    assert value(metrics, "echobeam_worker_frames_total", view="a4c") == 4
    assert value(metrics, "echobeam_worker_rejections_total", reason="no_pixels") == 2
    assert value(metrics, "echobeam_worker_last_success_timestamp_seconds") == 6
    assert value(metrics, "echobeam_worker_model_info", model="view-3") == 1
    assert value(metrics, "echobeam_worker_model_info", model="view-2") is None
    assert value(metrics, "echobeam_worker_view_confidence_ratio_bucket", le="0.5") == 2
    assert value(metrics, "echobeam_worker_view_confidence_ratio_count") == 6
    assert value(metrics, "echobeam_worker_view_confidence_ratio_sum") == pytest.approx(4.8)


def test_a_study_whose_claim_was_lost_counts_no_frames(metrics: WorkerMetrics) -> None:
    metrics.observe_study(written(committed=False), now=5.0)
    assert value(metrics, "echobeam_worker_studies_total", outcome="claim_lost") == 1
    assert value(metrics, "echobeam_worker_frames_total", view="a4c") == 0
    assert value(metrics, "echobeam_worker_last_success_timestamp_seconds") == 0


def test_a_study_that_is_kept_back_counts_by_its_reason_and_nothing_of_it_as_written(
    metrics: WorkerMetrics,
) -> None:
    assert {
        value(metrics, "echobeam_worker_quarantines_total", reason=reason.value)
        for reason in QuarantineReason
    } == {0.0}
    metrics.observe_study(written(quarantined=QuarantineReason.TEXT_IN_PIXELS), now=5.0)
    assert value(metrics, "echobeam_worker_quarantines_total", reason="text_in_pixels") == 1
    assert value(metrics, "echobeam_worker_studies_total", outcome="quarantined") == 1
    assert value(metrics, "echobeam_worker_studies_total", outcome="written") == 0
    assert value(metrics, "echobeam_worker_frames_total", view="a4c") == 0
    assert value(metrics, "echobeam_worker_last_success_timestamp_seconds") == 0


def test_the_queue_is_asked_at_each_scrape_and_nan_where_nobody_answers(
    metrics: WorkerMetrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.complete_studies(CompletionRule(0, 1), now=0)
    metrics.watch_queue(ledger, lambda: 10.0)
    assert value(metrics, "echobeam_worker_queue_studies") == 0

    def silent() -> dict[str, int]:
        raise LedgerUnavailableError("gone")

    monkeypatch.setattr(ledger, "counts_by_state", silent)
    assert math.isnan(value(metrics, "echobeam_worker_queue_studies") or 0)
    assert b"echobeam_worker_batches_total" in generate_latest(metrics.registry)
