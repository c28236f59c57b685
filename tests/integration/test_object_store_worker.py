"""Results in a real S3 server: by a worker alone, on Prism, and when a worker is killed in an upload."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_jobs.deid import Pseudonymizer
from beam_jobs.erase import Site, erase, plan_erasure
from beam_jobs.query import run_query
from beam_jobs.result_files import list_files, source_of
from beam_jobs.settings import DeidSettings, WorkerSettings
from beam_jobs.worker import Worker
from dicom_listener.ledger import Ledger
from dicom_listener.object_store import StoreUrl, list_objects
from tests.bright import BRIGHT, write_bright_registry
from tests.object_stores import (
    FirstUpload,
    Relay,
    Server,
    gateway_program,  # noqa: F401 - a fixture
    s3_server,  # noqa: F401 - a fixture
)
from tests.prism import kill, prism_program, running, start_pool, start_prism  # noqa: F401 - a fixture
from tests.programs import DEADLINE_S, wait_for
from tests.studies import AT_ONCE, MARK, clip, receive, uid

FRAMES = 4
TABLES = ("audit", "clips", "frames", "studies")
START_S = 300.0
"""For a worker process to start where others keep its host busy."""
LATER_S = 1000.0
"""When the lease of a worker that was killed has run out."""


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> WorkerSettings:
    write_bright_registry(tmp_path / "models")
    return WorkerSettings(
        root=tmp_path, results=StoreUrl(server.url.bucket, "a/results"), http_port=0, poll_s=0.05
    )


@pytest.fixture
def ledger(settings: WorkerSettings) -> Iterator[Ledger]:
    ledger = Ledger(settings.ledger_url)
    yield ledger
    ledger.close()


def fill(ledger: Ledger, settings: WorkerSettings, studies: range, *, date: str = "20240517") -> None:
    clips = [clip(n, 1, frames=FRAMES, grey=BRIGHT, date=date) for n in studies]
    receive(ledger, settings.spool, clips, now=time.time() - 10)


def working(settings: WorkerSettings, *, clock: Callable[[], float] = time.time) -> Worker:
    return Worker(settings, AT_ONCE, deid=DeidSettings(root=settings.root, ocr="off"), clock=clock)


def url_of(settings: WorkerSettings) -> StoreUrl:
    assert isinstance(settings.results, StoreUrl)
    return settings.results


def expect_each_study_once(settings: WorkerSettings, studies: range) -> None:
    """Expect the objects of these studies, each whole, and no others."""
    url, keys = url_of(settings), Pseudonymizer.from_existing_key_file(settings.key_file)
    names = {f"{keys.study_key(uid(n))}.parquet" for n in studies}
    found = list_objects(url)
    assert sorted((item.key.split("/")[0], item.name) for item in found) == sorted(
        (table, name) for table in TABLES for name in names
    )
    for item in found:
        assert pq.read_table(source_of(item), partitioning=None).num_rows > 0
    rows = run_query("SELECT instance_key, frame_index FROM frames", url).rows
    assert len(rows) == len(set(rows)) == len(studies) * FRAMES


def test_studies_are_written_replaced_and_erased_as_in_a_folder(
    settings: WorkerSettings, ledger: Ledger
) -> None:
    fill(ledger, settings, range(3))
    with working(settings) as worker:
        worker.run(once=True)
        expect_each_study_once(settings, range(3))
        ledger_says = ledger.counts_by_state()["done"]
        receive(
            ledger,
            settings.spool,
            [clip(1, 2, frames=FRAMES, grey=BRIGHT, date="20190101")],
            now=time.time() - 10,
        )
        worker.run(once=True)
    assert ledger_says == ledger.counts_by_state()["done"] == 3
    url = url_of(settings)
    revised = run_query("SELECT revision, number_of_clips FROM studies ORDER BY 1", url).rows
    assert revised == ((1, 1), (1, 1), (2, 2))
    assert len(list_files(url, "studies")) == 3
    keys = Pseudonymizer.from_existing_key_file(settings.key_file)
    site = Site(
        settings.root,
        settings.spool,
        url,
        settings.pool,
        DeidSettings(root=settings.root).archive_folder,
        settings.models,
    )
    subject = keys.subject_key(f"{MARK}-1", uid(1))
    plan = plan_erasure(subject, site, ledger, keys)
    assert plan.counts()["files_of_frames"] == 1
    erase(plan, site, ledger, clock=time.time)
    assert keys.study_key(uid(1)) not in {file.name.partition(".")[0] for file in list_objects(url)}
    assert run_query("SELECT count(*) FROM studies", url).rows == ((2,),)


def test_a_worker_that_is_killed_in_an_upload_leaves_no_half_object_and_its_study_is_done_once(
    settings: WorkerSettings, ledger: Ledger, server: Server
) -> None:
    fill(ledger, settings, range(2))
    with Relay(server.port, FirstUpload("clips")) as relay:
        program = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "beam_jobs",
                "work",
                "--root",
                settings.root,
                "--once",
                "--http-port",
                "0",
            ],
            env={
                **os.environ,
                **server.through(relay),
                "ECHOBEAM_WORKER_RESULTS": str(settings.results),
                "ECHOBEAM_DEID_OCR": "off",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_for(
                "an upload",
                lambda: relay.held.is_set() or program.poll() is not None,
                deadline_s=START_S,
            )
            assert relay.held.is_set(), program.communicate()[1]
            assert list_files(url_of(settings), "clips") == []
        finally:
            program.send_signal(signal.SIGKILL)
            _, said = program.communicate(timeout=DEADLINE_S)
        assert ledger.counts_by_state()["done"] == 0
        assert list_files(url_of(settings), "clips") == []
        with working(settings, clock=lambda: time.time() + LATER_S) as worker:
            worker.run(once=True)
        expect_each_study_once(settings, range(2))
    expect_each_study_once(settings, range(2))  # also after the server was told that nothing more comes
    assert ledger.counts_by_state()["done"] == 2
    assert MARK not in said
    assert server.environment["AWS_SECRET_ACCESS_KEY"] not in said


def test_on_prism_each_study_is_in_the_store_once_though_a_worker_process_is_killed_in_an_upload(
    settings: WorkerSettings,
    ledger: Ledger,
    server: Server,
    prism_program: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    fill(ledger, settings, range(5))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    log = tmp_path / "pool.log"
    engine = start_prism(prism_program, log=tmp_path / "prism.log")
    with running(engine), Relay(server.port, FirstUpload("frames")) as relay:
        pool = start_pool(elsewhere, log=log, environment={**os.environ, **server.through(relay)})
        on_engine = settings.model_copy(
            update={
                "runner": "PortableRunner",
                "beam_options": [
                    f"--job_endpoint={engine.endpoint}",
                    "--environment_type=EXTERNAL",
                    f"--environment_config={pool.endpoint}",
                ],
            }
        )
        with running(pool), working(on_engine) as worker:
            killed: list[int] = []

            def kill_when_held() -> None:
                relay.held.wait()
                for pid in pool.children():
                    kill(pid)
                    killed.append(pid)

            threading.Thread(target=kill_when_held, daemon=True).start()
            worker.run(once=True)
        assert killed
    counts = ledger.counts_by_state()
    assert (counts["done"], counts["failed"]) == (5, 0)
    expect_each_study_once(settings, range(5))
    assert MARK not in log.read_text(encoding="utf-8")
    assert server.environment["AWS_SECRET_ACCESS_KEY"] not in log.read_text(encoding="utf-8")
