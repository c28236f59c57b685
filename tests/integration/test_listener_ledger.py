"""Several processes at one ledger, at once: receiving the same, claiming the same, making the tables."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dicom_listener.ledger import Ledger, StudyState
from dicom_listener.service.listener import Listener
from dicom_listener.settings import ListenerSettings
from tests.integration.listener_peers import associate, store
from tests.postgres import find_programs, running_postgres
from tests.programs import DEADLINE_S
from tests.unit.dicom_listener.instances import make_dataset

HERE = Path(__file__).parents[2]
STUDIES, INSTANCES = 4, 8

# Every process is told to go by a line on its standard input, and prints one JSON document at its end.
RECEIVER = """
import json, random, sys
from dicom_listener.ledger import Ledger, ReceivedInstance, SpooledInstance

def arrival(study, number):
    uid = f"1.2.{study}.1.{number}"
    return ReceivedInstance(f"1.2.{study}", "P", SpooledInstance(uid, "1.2.9", "1.2.8", "1.2.7", uid, uid, 1))

url, seed, studies, instances = sys.argv[1], *map(int, sys.argv[2:])
ledger = Ledger(url)
arrivals = [arrival(study, number) for study in range(studies) for number in range(instances)]
random.Random(seed).shuffle(arrivals)
print("ready", flush=True)
sys.stdin.readline()
outcomes = {}
for one in arrivals:
    outcome = ledger.record_instance(one, association=f"a{seed}", hold_until=1, now=1)
    outcomes[one.spooled.sop_instance_uid] = outcome
ledger.release_holds(f"a{seed}")
print(json.dumps(outcomes))
"""

WORKER = """
import json, sys
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.ledger import Ledger

url, name, studies, instances = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
ledger = Ledger(url)
print("ready", flush=True)
sys.stdin.readline()
committed = []
while True:
    ledger.complete_studies(CompletionRule(0, 3600), now=2)
    for study in ledger.claim_studies(worker=name, limit=2, lease_s=1000, max_attempts=3, now=2):
        with ledger.committing(study.claim_token, now=3):
            committed.append([study.study_instance_uid, study.revision, len(study.instances)])
    records = ledger.list_studies()
    if len(records) == studies and all(
        record.instances == instances and record.state == "done" and record.done_revision == record.revision
        for record in records
    ):
        break
print(json.dumps(committed))
"""


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(processes: ExitStack, program: str, *arguments: object) -> "subprocess.Popen[str]":
    process = processes.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE,
        )
    )
    processes.callback(process.kill)
    return process


def run_together(running: Sequence["subprocess.Popen[str]"]) -> list[Any]:
    """Let processes go at once; give what each printed."""
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=DEADLINE_S)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running)
    return [json.loads(text) for text in printed]


def test_processes_that_receive_and_work_at_once_lose_and_double_nothing(
    empty_url: str, processes: ExitStack
) -> None:
    receivers = [start(processes, RECEIVER, empty_url, seed, STUDIES, INSTANCES) for seed in range(3)]
    workers = [start(processes, WORKER, empty_url, name, STUDIES, INSTANCES) for name in ("w1", "w2")]
    printed = run_together([*receivers, *workers])
    outcomes = Counter((uid, outcome) for received in printed[:3] for uid, outcome in received.items())
    assert {uid for uid, _ in outcomes} == {
        f"1.2.{study}.1.{number}" for study in range(STUDIES) for number in range(INSTANCES)
    }
    assert {(outcome, times) for (_, outcome), times in outcomes.items()} == {("new", 1), ("duplicate", 2)}
    revisions = Counter((uid, revision) for committed in printed[3:] for uid, revision, _ in committed)
    assert set(revisions.values()) == {1}, "a revision was committed twice"
    ledger = Ledger(empty_url)
    try:
        for record in ledger.list_studies():
            last = max(
                (revision, instances)
                for committed in printed[3:]
                for uid, revision, instances in committed
                if uid == record.study_instance_uid
            )
            assert record.state is StudyState.DONE
            assert (record.revision, record.instances, record.duplicates) == (last[0], last[1], 2 * INSTANCES)
    finally:
        ledger.close()


def test_processes_that_start_together_make_one_ledger(empty_url: str, processes: ExitStack) -> None:
    starters = [start(processes, RECEIVER, empty_url, seed, 1, 1) for seed in range(3)]
    assert sorted(outcome for printed in run_together(starters) for outcome in printed.values()) == [
        *["duplicate"] * 2,
        "new",
    ]


def test_a_listener_outlives_its_database_and_goes_on_by_itself(tmp_path: Path) -> None:
    if find_programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    with running_postgres() as server:
        settings = ListenerSettings(
            root=tmp_path, port=0, http_port=0, minimum_free_bytes=0, ledger_url=server.make_database()
        )
        with Listener(settings) as listener:
            assoc = associate(listener.dicom_port)
            assert store(assoc, make_dataset(instance="1.2.3.1.1")) == 0x0000
            server.stop()
            assert store(assoc, make_dataset(instance="1.2.3.1.2")) == 0xA700
            server.start()
            assert store(assoc, make_dataset(instance="1.2.3.1.2")) == 0x0000
            assoc.release()
            assert listener.reception.ledger.show_study("1.2.3").instances == 2
