"""The loop around the pipeline; the pipeline itself is tried in tests/integration."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from beam_jobs import worker as module
from beam_jobs.deid import Pseudonymizer
from beam_jobs.errors import SetupError
from beam_jobs.records import StudyClaim
from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.worker import UNREACHED, Worker, describe_failure
from dicom_listener.errors import LedgerUnavailableError, SettingsError
from dicom_listener.ledger import Ledger
from dicom_listener.settings import load_section
from echo_models.errors import BundleError
from tests.bright import write_bright_registry
from tests.programs import wait_for
from tests.studies import AT_ONCE, clip, receive, uid

Batch = Callable[[Sequence[StudyClaim], WorkerSettings], None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bright_registry(tmp_path_factory.mktemp("registry") / "models").root


@pytest.fixture
def settings(tmp_path: Path, models: Path) -> WorkerSettings:
    return WorkerSettings(root=tmp_path, models=models, http_port=0, poll_s=0.01, max_attempts=2)


def fill(settings: WorkerSettings, studies: int) -> Ledger:
    ledger = Ledger(settings.ledger_url)
    receive(ledger, settings.spool, [clip(n, 1) for n in range(studies)], now=time.time() - 10)
    return ledger


def committing(settings: WorkerSettings, claims: Sequence[StudyClaim]) -> None:
    """Do what a pipeline does for the ledger."""
    ledger = Ledger(settings.ledger_url)
    for claim in claims:
        with ledger.committing(claim.claim_token, now=time.time()):
            pass


def use(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    class Pipeline:
        def __init__(self, settings: WorkerSettings, _: DeidSettings) -> None:
            self._settings = settings

        def run(self, claims: Sequence[StudyClaim]) -> None:
            batch(claims, self._settings)

    monkeypatch.setattr(module, "BatchPipeline", Pipeline)


def test_batches_follow_until_the_queue_is_empty(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = fill(settings, 10)
    sizes = []

    def batch(claims: Sequence[StudyClaim], used: WorkerSettings) -> None:
        sizes.append(len(claims))
        committing(used, claims)

    use(monkeypatch, batch)
    with Worker(settings, AT_ONCE) as worker:
        worker.run(once=True)
    assert sorted(sizes) == [2, 8]
    assert ledger.counts_by_state()["done"] == 10


def use_two_that_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each batch wait until another is at work beside it."""
    both = threading.Barrier(2, timeout=60)

    def batch(claims: Sequence[StudyClaim], used: WorkerSettings) -> None:
        both.wait()
        committing(used, claims)

    use(monkeypatch, batch)


def test_two_batches_are_at_work_at_once(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = fill(settings, 4)
    use_two_that_meet(monkeypatch)
    with Worker(
        settings.model_copy(update={"studies_per_batch": 1, "batches_at_once": 2}), AT_ONCE
    ) as worker:
        worker.run(once=True)
    assert ledger.counts_by_state()["done"] == 4


def test_named_studies_are_at_work_at_once_too(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = fill(settings, 3)
    use_two_that_meet(monkeypatch)
    with Worker(
        settings.model_copy(update={"studies_per_batch": 1, "batches_at_once": 2}), AT_ONCE
    ) as worker:
        worker.run_studies([uid(0), uid(2)])
    assert [ledger.show_study(uid(n)).state for n in range(3)] == ["done", "complete", "done"]


def test_a_study_that_failed_before_has_the_process_to_itself(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = fill(settings, 4)
    poison = Pseudonymizer.from_key_file(settings.key_file).study_key(uid(1))
    at_work: set[str] = set()
    beside: list[set[str]] = []

    def batch(claims: Sequence[StudyClaim], used: WorkerSettings) -> None:
        (claim,) = claims
        at_work.add(claim.study_key)
        try:
            if claim.study_key != poison:
                committing(used, claims)
                return
            beside.append(at_work - {poison})
            raise BundleError("poison")
        finally:
            at_work.discard(claim.study_key)

    use(monkeypatch, batch)
    with Worker(
        settings.model_copy(update={"studies_per_batch": 1, "batches_at_once": 2}), AT_ONCE
    ) as worker:
        worker.run(once=True)
    assert [ledger.show_study(uid(n)).state for n in range(4)] == ["done", "failed", "done", "done"]
    assert (len(beside), beside[-1]) == (2, set())


def test_what_ends_one_lane_ends_the_worker(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Worker(settings, AT_ONCE) as worker:
        monkeypatch.setattr(worker.ledger, "claim_studies", Mock(side_effect=RuntimeError("a bug")))
        with pytest.raises(RuntimeError, match="a bug"):
            worker.run()
        assert not worker.is_ready()


def test_what_a_failed_batch_committed_stays_done_and_the_rest_goes_back(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = fill(settings, 2)

    def batch(claims: Sequence[StudyClaim], used: WorkerSettings) -> None:
        committing(used, claims[:1])
        raise BundleError("a bundle is not whole")

    use(monkeypatch, batch)
    with Worker(settings, AT_ONCE) as worker:
        assert worker.process_next_batch()
    counts = ledger.counts_by_state()
    assert (counts["done"], counts["complete"]) == (1, 1)
    errors = {ledger.show_study(uid(n)).last_error for n in range(2)}
    assert errors == {None, "BundleError: a bundle is not whole"}


def test_a_study_that_a_sound_pipeline_left_out_goes_back_too(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = fill(settings, 1)
    use(monkeypatch, lambda _claims, _settings: None)
    with Worker(settings, AT_ONCE) as worker:
        worker.run(once=True)
    study = ledger.show_study(uid(0))
    assert (study.state, study.last_error, study.attempts) == ("failed", UNREACHED, 2)


def test_a_long_batch_keeps_its_claims(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = fill(settings, 1)
    settings = settings.model_copy(update={"lease_s": 0.3})

    def batch(claims: Sequence[StudyClaim], used: WorkerSettings) -> None:
        lease = ledger.show_study(uid(0)).lease_until
        assert lease is not None
        wait_for("three renewals", lambda: (ledger.show_study(uid(0)).lease_until or 0) > lease + 0.3)
        committing(used, claims)

    use(monkeypatch, batch)
    with Worker(settings, AT_ONCE) as worker:
        assert worker.process_next_batch()
    assert ledger.counts_by_state()["done"] == 1


def test_a_stopped_worker_finishes_its_batch_and_claims_no_more(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = fill(settings, 9)
    worker = Worker(settings, AT_ONCE)

    def batch(claims: Sequence[StudyClaim], used: WorkerSettings) -> None:
        worker.stop()
        committing(used, claims)

    use(monkeypatch, batch)
    with worker:
        assert worker.is_ready()
        worker.run()
        assert not worker.is_ready()
    counts = ledger.counts_by_state()
    assert (counts["done"], counts["complete"]) == (8, 1)


def test_an_idle_worker_waits_for_studies(settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, lambda claims, used: committing(used, claims))
    with Worker(settings, AT_ONCE) as worker:
        thread = threading.Thread(target=worker.run)
        thread.start()
        ledger = fill(settings, 1)
        wait_for("the study", lambda: ledger.counts_by_state()["done"])
        worker.stop()
        thread.join(60)
    assert not thread.is_alive()


def test_a_ledger_that_does_not_answer_is_asked_again(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Worker(settings, AT_ONCE) as worker:
        asked = []

        def silent(*_: Any, **__: Any) -> int:
            asked.append(1)
            if len(asked) == 3:
                worker.stop()
            raise LedgerUnavailableError("gone")

        monkeypatch.setattr(worker.ledger, "complete_studies", silent)
        worker.run()
        assert len(asked) == 3
    with Worker(settings, AT_ONCE) as worker:
        monkeypatch.setattr(worker.ledger, "complete_studies", silent)
        with pytest.raises(LedgerUnavailableError):
            worker.run(once=True)


def test_an_altered_model_refuses_the_start(tmp_path: Path) -> None:
    registry = write_bright_registry(tmp_path / "models")
    manifest = registry.resolve("view") / "bundle.json"
    manifest.write_text(manifest.read_text() + " ")
    with (
        pytest.raises(SetupError, match="models are not ready"),
        Worker(WorkerSettings(root=tmp_path, http_port=0), AT_ONCE),
    ):
        pass
    assert not (tmp_path / "run" / "worker.json").exists()


def test_a_failure_is_told_by_type_place_and_step_only() -> None:
    with pytest.raises(ValueError, match="Zebedee") as caught:
        int("Zebedee^Ada [while running 'ProcessStudies/ClassifyViews/RunInference/X-ptransform-5']")
    described = describe_failure(caught.value)
    assert described.startswith("ValueError at beam_jobs/test_worker.py:")
    assert described.endswith(" in ClassifyViews")
    own = BundleError("altered [while running 'ProcessStudies/SegmentFieldOfView/BatchElements']")
    assert describe_failure(own) == "BundleError: altered in SegmentFieldOfView"
    assert describe_failure(BundleError("altered")) == "BundleError: altered"


def test_settings_come_from_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "echobeam.toml").write_text('[worker]\nbatch_size = 8\nfov_frames_per_clip = "all"\n')
    monkeypatch.setenv("ECHOBEAM_WORKER_LEASE_S", "7")
    settings = load_section(WorkerSettings, "worker", tmp_path, http_port=1)
    assert (settings.batch_size, settings.fov_frames_per_clip, settings.lease_s, settings.http_port) == (
        8,
        "all",
        7,
        1,
    )
    assert settings.results == tmp_path / "results"
    with pytest.raises(SettingsError, match="fov_frames_per_clip"):
        load_section(WorkerSettings, "worker", tmp_path, fov_frames_per_clip=0)
