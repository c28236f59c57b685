"""What the driver does when a pipeline ends; pipelines themselves run in tests/integration."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from beam_jobs import driver as module
from beam_jobs.driver import PIPELINE_ENDED, Driver
from beam_jobs.settings import DeidSettings, WorkerSettings
from dicom_listener.errors import LedgerUnavailableError
from dicom_listener.ledger import Ledger
from tests.studies import AT_ONCE, clip, receive, uid


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(root=tmp_path, poll_s=0.001, runner="PrismRunner", max_attempts=2)


@pytest.fixture
def ledger(settings: WorkerSettings) -> Iterator[Ledger]:
    ledger = Ledger(settings.ledger_url)
    receive(ledger, settings.spool, [clip(n, 1) for n in range(2)], now=time.time() - 10)
    yield ledger
    ledger.close()


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> Mock:
    cancelled = Mock(return_value=0)
    monkeypatch.setattr(module, "cancel_jobs", cancelled)
    return cancelled


def make_driver(settings: WorkerSettings, ledger: Ledger) -> Driver:
    return Driver(
        settings,
        AT_ONCE,
        DeidSettings(root=settings.root),
        ledger,
        stopping=threading.Event(),
        clock=time.time,
    )


def test_a_pipeline_that_ended_is_submitted_again_after_what_it_left_was_ended(
    settings: WorkerSettings, ledger: Ledger, cancelled: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[Any] = [ConnectionError("the engine is down"), LedgerUnavailableError("down"), False, True]
    run_pipeline = Mock(side_effect=ends)
    monkeypatch.setattr(Driver, "_run_pipeline", run_pipeline)
    make_driver(settings, ledger).run()
    assert run_pipeline.call_count == cancelled.call_count == len(ends)


def test_with_once_a_ledger_that_is_down_is_told(
    settings: WorkerSettings, ledger: Ledger, cancelled: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Driver, "_run_pipeline", Mock(side_effect=LedgerUnavailableError("down")))
    with pytest.raises(LedgerUnavailableError):
        make_driver(settings, ledger).run(once=True)
    assert cancelled.call_count == 1


@pytest.mark.parametrize(("error", "attempts"), [(PIPELINE_ENDED, [1, 0]), (None, [0, 0])])
def test_only_what_had_begun_when_a_pipeline_failed_counts_as_an_attempt(
    settings: WorkerSettings, ledger: Ledger, error: str | None, attempts: list[int]
) -> None:
    driver = make_driver(settings, ledger)
    begun, _ = ledger.claim_studies(
        worker=driver._name, limit=2, lease_s=100, max_attempts=2, now=time.time()
    )
    ledger.begin_claim(begun.claim_token, max_attempts=2, now=time.time())
    driver._give_back(error=error)
    shown = [ledger.show_study(uid(n)) for n in range(2)]
    assert [study.state for study in shown] == ["complete", "complete"]
    assert [study.attempts for study in shown] == attempts
    assert shown[0].last_error == error


def test_a_pipeline_is_named_by_its_host_and_root_unless_the_site_names_it(
    settings: WorkerSettings, ledger: Ledger
) -> None:
    names = {
        make_driver(settings.model_copy(update=update), ledger)._name
        for update in ({}, {}, {"root": Path("/another")}, {"beam_options": ["--job_name=ours"]})
    }
    assert len(names) == 3
    assert "ours" in names


def test_a_job_is_cancelled_whatever_ends_the_watch(
    settings: WorkerSettings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Mock()
    monkeypatch.setattr(module, "new_pipeline", lambda _: _Pipeline(job))
    driver = make_driver(settings, ledger)
    job.state = "FAILED"
    job.cancel.side_effect = ConnectionError("the engine is gone")
    assert not driver._run_pipeline(once=False)
    job.state = "RUNNING"
    driver._stopping.set()
    assert driver._run_pipeline(once=False)
    assert job.cancel.call_count == 2


def test_a_pipeline_that_runs_and_takes_up_nothing_for_a_lease_is_submitted_again(
    settings: WorkerSettings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Mock(state="RUNNING")
    monkeypatch.setattr(module, "new_pipeline", lambda _: _Pipeline(job))
    monkeypatch.setattr(module, "SHORTEST_STALL_S", 0.01)
    driver = make_driver(settings.model_copy(update={"lease_s": 0.01}), ledger)
    assert not driver._run_pipeline(once=False)
    assert job.cancel.call_count == 1


def test_a_pipeline_is_not_stuck_while_it_works_or_has_nothing_to_do(
    settings: WorkerSettings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = make_driver(settings, ledger)
    assert driver._is_stuck()  # two studies wait
    claims = ledger.claim_studies(worker=driver._name, limit=2, lease_s=100, max_attempts=2, now=time.time())
    assert driver._is_stuck()  # they are claimed, and nobody begins
    ledger.begin_claim(claims[0].claim_token, max_attempts=2, now=time.time())
    assert not driver._is_stuck()
    for claim in claims:
        with ledger.committing(claim.claim_token, now=time.time()):
            pass
    assert not driver._is_stuck()
    monkeypatch.setattr(Ledger, "claims_held_by", Mock(side_effect=LedgerUnavailableError("down")))
    assert not driver._is_stuck()


class _Pipeline:
    """Takes any step, and runs as a job that is given."""

    def __init__(self, job: Mock) -> None:
        self._job = job

    def __or__(self, _: object) -> "_Pipeline":
        return self

    def run(self) -> Mock:
        return self._job
