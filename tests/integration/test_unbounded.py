"""The unbounded pipeline on a real Prism, its steps in this process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from apache_beam.runners.portability.portable_runner import PipelineResult

from beam_jobs import driver
from beam_jobs.driver import Driver
from beam_jobs.engine import beam_flags, cancel_jobs
from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.verbs.work import _read_list as read_list
from beam_jobs.verbs.work import _run_listed as run_listed
from beam_jobs.worker import Worker
from dicom_listener.ledger import Ledger
from tests.bright import BRIGHT, write_bright_registry
from tests.prism import Program, prism_program, running, start_prism  # noqa: F401 - a fixture
from tests.programs import wait_for
from tests.studies import AT_ONCE, clip, receive, uid

FRAMES = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bright_registry(tmp_path_factory.mktemp("registry") / "models").root


@pytest.fixture(scope="module")
def engine(prism_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:  # noqa: F811
    prism = start_prism(prism_program, log=tmp_path_factory.mktemp("prism") / "log")
    with running(prism):
        yield prism


@pytest.fixture
def settings(
    engine: Program, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> WorkerSettings:
    # Now and then Prism runs a pipeline that gets nothing, where a process has had another one before.
    monkeypatch.setattr(driver, "SHORTEST_STALL_S", 20.0)
    return WorkerSettings(
        root=tmp_path,
        models=models,
        http_port=0,
        poll_s=0.05,
        lease_s=20,
        studies_in_flight=3,
        runner="PortableRunner",
        beam_options=[f"--job_endpoint={engine.endpoint}", "--environment_type=LOOPBACK"],
    )


@pytest.fixture
def ledger(settings: WorkerSettings) -> Iterator[Ledger]:
    ledger = Ledger(settings.ledger_url)
    yield ledger
    ledger.close()


def fill(ledger: Ledger, settings: WorkerSettings, studies: range) -> None:
    clips = [clip(number, 1, frames=FRAMES, grey=BRIGHT) for number in studies]
    receive(ledger, settings.spool, clips, now=time.time() - 10)


def working_on(settings: WorkerSettings) -> Worker:
    return Worker(settings, AT_ONCE, deid=DeidSettings(root=settings.root, ocr="off"))


@contextmanager
def working(settings: WorkerSettings) -> Iterator[Worker]:
    with working_on(settings) as worker:
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            yield worker
        finally:
            worker.stop()
            thread.join()


def frames(settings: WorkerSettings) -> list[tuple[Any, ...]]:
    files = f"{settings.results}/frames/**/*.parquet"
    return duckdb.execute(f"SELECT instance_key, frame_index FROM '{files}'").fetchall()  # noqa: S608


def test_studies_that_come_while_the_pipeline_runs_are_done_and_no_more_are_held_than_it_may(
    settings: WorkerSettings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    claims_held_by = Ledger.claims_held_by

    def noting(self: Ledger, worker: str) -> Any:
        claims = claims_held_by(self, worker)
        held.append(len(claims))
        return claims

    monkeypatch.setattr(Ledger, "claims_held_by", noting)
    fill(ledger, settings, range(8))
    with working(settings):
        wait_for("the first studies", lambda: ledger.counts_by_state()["done"] == 8)
        fill(ledger, settings, range(8, 10))
        wait_for("the late studies", lambda: ledger.counts_by_state()["done"] == 10)
    assert 0 < max(held) <= settings.studies_in_flight
    rows = frames(settings)
    assert len(rows) == len(set(rows)) == 10 * FRAMES


def test_a_pipeline_that_a_killed_driver_left_is_ended_and_its_studies_come_back(
    settings: WorkerSettings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*beam_flags(settings), "--job_name=left"]
    left = settings.model_copy(update={"beam_options": [*settings.beam_options, "--job_name=left"]})
    with monkeypatch.context() as killed:  # a driver that is killed does neither
        killed.setattr(PipelineResult, "cancel", lambda _: None)
        killed.setattr(Driver, "_give_back", lambda *_, **__: None)
        fill(ledger, settings, range(1))
        with working(left):
            wait_for("its study", lambda: ledger.counts_by_state()["done"] == 1)
    assert cancel_jobs(flags, "another") == 0
    with working(left):
        fill(ledger, settings, range(1, 3))
        wait_for("the next studies", lambda: ledger.counts_by_state()["done"] == 3, deadline_s=300)
    assert cancel_jobs(flags, "left") == 0


def test_listed_studies_are_processed_and_no_others(
    settings: WorkerSettings, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(ledger, settings, range(3))
    listed = tmp_path / "listed.txt"
    listed.write_text(f"{uid(2)}\n\n{uid(0)}\n{uid(2)}\n", encoding="utf-8")
    with working_on(settings) as worker:
        run_listed(worker, read_list(str(listed)))
    assert capsys.readouterr().out.splitlines()[-1] == "2 done"
    assert list(ledger.states_of([uid(n) for n in range(3)]).values()) == ["done", "complete", "done"]


def test_a_study_that_is_listed_and_unknown_stops_the_run_before_it_begins(
    settings: WorkerSettings, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(ledger, settings, range(1))
    listed = tmp_path / "listed.txt"
    listed.write_text(f"{uid(0)}\n{uid(77)}\n", encoding="utf-8")
    with working_on(settings) as worker, pytest.raises(SystemExit) as ended:
        run_listed(worker, read_list(str(listed)))
    assert ended.value.code == 3
    said = capsys.readouterr().err
    assert "1 of the 2 listed studies" in said
    assert uid(77) not in said
    assert ledger.counts_by_state()["complete"] == 1


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_list(str(tmp_path / "absent.txt"))
    assert ended.value.code == 2
    assert "FileNotFoundError" in capsys.readouterr().err
