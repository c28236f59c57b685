"""A real `echobeam work` in a process of its own: killed, told to stop, set up wrongly."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import duckdb
import pytest

from dicom_listener.ledger import Ledger
from tests.bright import BRIGHT, write_bright_registry
from tests.programs import DEADLINE_S, wait_for
from tests.studies import clip, receive

STUDIES = 24
ENVIRONMENT = {
    **os.environ,
    "ECHOBEAM_WORKER_LEASE_S": "1",
    "ECHOBEAM_WORKER_POLL_S": "0.05",
    "ECHOBEAM_WORKER_MAX_ATTEMPTS": "9",
    "ECHOBEAM_WORKER_STUDIES_PER_BATCH": "6",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_bright_registry(tmp_path / "models")
    return tmp_path


def fill(root: Path) -> Ledger:
    ledger = Ledger(f"sqlite:///{root / 'ledger.sqlite'}")
    instances = [clip(number, n, frames=4, grey=BRIGHT) for number in range(STUDIES) for n in (1, 2)]
    receive(ledger, root / "spool", instances, now=time.time() - 4000)  # beyond max_age_s: all complete
    return ledger


def has_both(counts: dict[str, int], *states: str) -> bool:
    return all(counts[state] for state in states)


@contextmanager
def working(root: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = (sys.executable, "-m", "beam_jobs", "work", "--root", str(root), "--http-port", "0", *options)
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_worker_loses_no_study_and_writes_none_twice(root: Path) -> None:
    ledger = fill(root)
    with working(root) as first:
        wait_for("a batch half committed", lambda: has_both(ledger.counts_by_state(), "done", "claimed"))
        first.send_signal(signal.SIGKILL)
        first.wait(DEADLINE_S)
    assert ledger.counts_by_state()["done"] < STUDIES, "the kill came too late to prove anything"
    with working(root) as second:
        wait_for("every study", lambda: ledger.counts_by_state()["done"] == STUDIES)
        second.terminate()
        assert second.wait(DEADLINE_S) == 0
    rows = duckdb.execute(
        f"SELECT instance_key, frame_index FROM '{root}/results/frames/**/*.parquet'"  # noqa: S608
    ).fetchall()
    assert len(rows) == len(set(rows)) == STUDIES * 2 * 4
    studies = list((root / "results" / "studies").rglob("*.parquet"))
    assert len(studies) == STUDIES


def test_a_ready_worker_says_where_it_is_and_takes_that_back_when_it_stops(root: Path) -> None:
    run_file = root / "run" / "worker.json"
    with working(root) as process:
        place = json.loads(
            wait_for("the run file", lambda: run_file.read_text() if run_file.exists() else None)
        )
        assert place["pid"] == process.pid
        with urlopen(f"http://127.0.0.1:{place['http_port']}/readyz") as answer:
            assert answer.status == 200
        with urlopen(f"http://127.0.0.1:{place['http_port']}/metrics") as answer:
            assert b"echobeam_worker_queue_studies 0.0" in answer.read()
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
    assert not run_file.exists()


def test_once_ends_when_no_study_is_left(root: Path) -> None:
    ledger = fill(root)
    with working(root, "--once") as process:
        assert process.wait(DEADLINE_S) == 0
    assert ledger.counts_by_state()["done"] == STUDIES


def test_an_option_that_beam_does_not_know_is_refused(root: Path) -> None:
    with working(root, "--once", "--", "--no_such_option=1") as process:
        assert process.stderr is not None
        said = process.stderr.read().decode()
        assert process.wait(DEADLINE_S) == 2
    assert "no option no_such_option" in said


def test_a_key_file_that_others_may_read_is_refused(root: Path) -> None:
    (root / "secret.key").write_bytes(bytes(32))
    (root / "secret.key").chmod(0o644)
    with working(root, "--once") as process:
        assert process.stderr is not None
        said = process.stderr.read().decode()
        assert process.wait(DEADLINE_S) == 2
    assert "chmod 600" in said
