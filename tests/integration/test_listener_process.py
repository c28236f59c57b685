"""Real processes that are stopped, killed, and race for the same studies."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from dicom_listener.errors import ClaimLostError
from dicom_listener.ledger import Ledger, StudyState
from dicom_listener.ledger.completion import CompletionRule
from tests.integration.listener_peers import ECHOBEAM, associate, is_refused, listening, process, store
from tests.programs import DEADLINE_S, wait_for
from tests.unit.dicom_listener.instances import PLANTED_ID, PLANTED_NAME, make_dataset, make_received

# ---------------------------------------------------------------------- the listener


def test_sigterm_drains_and_what_was_promised_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with listening(root) as (running, ports, log):
        assert ports["pid"] == running.pid
        assoc = associate(ports["dicom_port"])
        assert store(assoc, make_dataset(instance="1.2.3.1.1")) == 0
        running.send_signal(signal.SIGTERM)
        wait_for("the closed door", lambda: is_refused(ports["dicom_port"]))
        assert store(assoc, make_dataset(instance="1.2.3.1.2")) == 0
        assoc.release()
        assert running.wait(DEADLINE_S) == 0
        assert not (root / "run" / "listener.json").exists()
        events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
        assert events == ["reconciled", "listening", "association", "stopped"]
    ledger = Ledger(f"sqlite:///{root}/ledger.sqlite")
    study = ledger.show_study("1.2.3")
    ledger.close()
    assert (study.instances, study.open_associations) == (2, 0)


def test_what_was_answered_with_success_outlives_a_kill(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with listening(root) as (running, ports, _log):
        assoc = associate(ports["dicom_port"])
        assert [store(assoc, make_dataset(instance=f"1.2.3.1.{number}")) for number in range(1, 6)] == [0] * 5
        running.kill()
        running.wait(DEADLINE_S)
        wait_for("the end of the association", lambda: not assoc.is_established)
    (root / "run" / "listener.json").unlink()
    with listening(root) as (_running, ports, _log):  # starts again on what is there
        assoc = associate(ports["dicom_port"])
        assert store(assoc, make_dataset(instance="1.2.3.1.1")) == 0
        assoc.release()
    ledger = Ledger(f"sqlite:///{root}/ledger.sqlite")
    study = ledger.show_study("1.2.3")
    ledger.close()
    assert (study.instances, study.revision) == (5, 1)
    assert len(list(root.glob("spool/??/*.dcm"))) == 5


def test_no_patient_is_in_logs_and_metrics(tmp_path: Path) -> None:
    with listening(tmp_path / "root") as (running, ports, log):
        assoc = associate(ports["dicom_port"])
        assert store(assoc, make_dataset(instance="1.2.3.1.1")) == 0
        bad = make_dataset(instance="1.2.3.1.2")
        bad.add_new("StudyDate", "LO", f"no date {PLANTED_ID}")
        bad.add_new("StudyInstanceUID", "LO", PLANTED_ID)
        assert store(assoc, bad) == 0x0117
        metrics = read(f"http://127.0.0.1:{ports['http_port']}/metrics")
        assoc.release()
        running.send_signal(signal.SIGTERM)
        assert running.wait(DEADLINE_S) == 0
        assert running.stdout is not None
        said = log.read_text() + metrics + running.stdout.read()
    assert "instance_refused" in said
    assert 'reason="invalid_uid"} 1.0' in said
    for planted in (PLANTED_ID, PLANTED_NAME, *PLANTED_NAME.split("^"), "1.2.3.1"):
        assert planted not in said


def read(url: str) -> str:
    with urlopen(url, timeout=DEADLINE_S) as answer:  # noqa: S310 - a server that this test started
        text: str = answer.read().decode()
    return text


def test_a_taken_port_ends_with_the_code_for_busy(tmp_path: Path) -> None:
    with listening(tmp_path / "root") as (_running, ports, _log):
        command = (*ECHOBEAM, "listen", "--root", str(tmp_path / "other"), "--port", str(ports["dicom_port"]))
        ended = subprocess.run(
            (*command, "--http-port", "0"), capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    assert ended.returncode == 4
    assert "DICOM cannot listen" in ended.stderr


# ---------------------------------------------------------------------- workers

WORKER = """
import sys
from dicom_listener.errors import ClaimLostError
from dicom_listener.ledger import Ledger

ledger = Ledger(sys.argv[1])
mode = sys.argv[2]
if mode == "race":
    print("ready", flush=True)
    sys.stdin.readline()
    while claimed := ledger.claim_studies(worker="w", limit=2, lease_s=1000, max_attempts=3, now=100):
        for study in claimed:
            with ledger.committing(study.claim_token, now=101):
                print(study.study_instance_uid, study.revision)
else:
    [study] = ledger.claim_studies(worker="doomed", limit=1, lease_s=60, max_attempts=3, now=100)
    if mode == "claiming":
        print(study.claim_token, flush=True)
        sys.stdin.readline()
    with ledger.committing(study.claim_token, now=101):
        print(study.claim_token, flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield ledger
    ledger.close()


def worker(tmp_path: Path, mode: str) -> Any:
    return process(sys.executable, "-c", WORKER, f"sqlite:///{tmp_path}/ledger.sqlite", mode)


def fill(ledger: Ledger, studies: int) -> list[str]:
    uids = [f"1.2.{number}" for number in range(1, studies + 1)]
    for uid in uids:
        ledger.record_instance(make_received(uid), association="a", hold_until=0, now=0)
    assert ledger.complete_studies(CompletionRule(0, 3600), now=1) == studies
    return uids


@pytest.mark.parametrize("mode", ["claiming", "committing"])
def test_a_killed_worker_s_claim_returns_when_its_lease_ends(
    ledger: Ledger, tmp_path: Path, mode: str
) -> None:
    [uid] = fill(ledger, 1)
    with worker(tmp_path, mode) as running:
        token = running.stdout.readline().strip()
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait(DEADLINE_S) == -signal.SIGKILL
    assert ledger.show_study(uid).state is StudyState.CLAIMED
    assert ledger.claim_studies(worker="w", limit=1, lease_s=60, max_attempts=3, now=159) == []
    [again] = ledger.claim_studies(worker="w", limit=1, lease_s=60, max_attempts=3, now=160)
    assert (again.study_instance_uid, again.attempts) == (uid, 2)
    with pytest.raises(ClaimLostError), ledger.committing(token, now=161):
        pytest.fail("the dead worker's claim must not commit")
    with ledger.committing(again.claim_token, now=161):
        pass
    assert ledger.show_study(uid).state is StudyState.DONE


def test_processes_that_race_never_get_the_same_study(ledger: Ledger, tmp_path: Path) -> None:
    uids = fill(ledger, 40)
    with worker(tmp_path, "race") as one, worker(tmp_path, "race") as other:
        for running in (one, other):
            assert running.stdout.readline() == "ready\n"
        for running in (one, other):
            running.stdin.write("go\n")
            running.stdin.flush()
        outputs = [running.communicate(timeout=DEADLINE_S)[0] for running in (one, other)]
        assert [one.returncode, other.returncode] == [0, 0]
    processed = [line.split()[0] for output in outputs for line in output.splitlines()]
    assert sorted(processed) == sorted(uids)
    assert ledger.counts_by_state()["done"] == 40


def test_processes_that_start_together_make_one_ledger(tmp_path: Path) -> None:
    starters = [worker(tmp_path, "race") for _ in range(3)]
    with starters[0] as one, starters[1] as two, starters[2] as three:
        for running in (one, two, three):
            assert running.stdout.readline() == "ready\n"
