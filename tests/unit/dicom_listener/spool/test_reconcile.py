"""Spool and ledger after a crash: what has no row, what has no file, what comes back."""

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from dicom_listener.ledger import FileState, Ledger, RecordOutcome, StudyState
from dicom_listener.ledger.completion import CompletionRule
from dicom_listener.spool.metrics import KeepingMetrics, LostFilesCollector
from dicom_listener.spool.reconcile import ReconcileReport, reconcile
from dicom_listener.spool.writing import Spool
from tests.unit.dicom_listener.instances import (
    PLANTED_ID,
    PLANTED_NAME,
    finish_studies,
    receive_instance,
    spool_instance,
)


def differences(spool: Spool, ledger: Ledger, *, now: float = 100) -> dict[str, int]:
    """Reconcile; give the numbers that are not 0."""
    found = reconcile(spool, ledger, now=now).differences()
    return {name: number for name, number in found.items() if number}


def test_a_spool_and_a_ledger_that_agree_are_left_alone(spool: Spool, ledger: Ledger) -> None:
    for number in range(1, 6):
        receive_instance(spool, ledger, number=number)
    before = ledger.show_study("1.2.3")
    assert reconcile(spool, ledger, now=100) == ReconcileReport(files=5)
    assert ledger.show_study("1.2.3") == before


def test_an_empty_root_reconciles(ledger: Ledger, tmp_path: Path) -> None:
    assert reconcile(Spool(tmp_path / "nothing"), ledger, now=0) == ReconcileReport()


# ---------------------------------------------------------------------- files without a row


def test_an_orphan_is_adopted_and_is_a_duplicate_when_it_is_sent_again(spool: Spool, ledger: Ledger) -> None:
    received = spool_instance(spool)
    with capture_logs() as logs:
        assert differences(spool, ledger) == {"adopted": 1}
    assert PLANTED_ID not in str(logs)
    assert PLANTED_NAME not in str(logs)
    study = ledger.show_study("1.2.3")
    assert (study.instances, study.state, study.last_received_at) == (1, StudyState.RECEIVING, 100)
    assert study.open_associations == 0
    again = ledger.record_instance(received, association="a", hold_until=101, now=101)
    assert again is RecordOutcome.DUPLICATE
    ledger.complete_studies(CompletionRule(60, 3600), now=200)
    [claimed] = ledger.claim_studies(worker="w", limit=1, lease_s=60, max_attempts=3, now=200)
    assert claimed.instances == (received.spooled,)
    assert claimed.patient_id == PLANTED_ID
    assert differences(spool, ledger) == {}


def test_an_orphan_of_a_study_that_is_done_sends_it_round_again(spool: Spool, ledger: Ledger) -> None:
    receive_instance(spool, ledger)
    finish_studies(ledger, now=5)
    spool_instance(spool, number=2)
    assert differences(spool, ledger) == {"adopted": 1}
    study = ledger.show_study("1.2.3")
    assert (study.state, study.revision, study.instances) == (StudyState.RECEIVING, 2, 2)


def test_an_orphan_never_replaces_what_is_at_work(spool: Spool, ledger: Ledger) -> None:
    at_work = receive_instance(spool, ledger, content=0)
    orphan = spool_instance(spool, content=1)
    assert differences(spool, ledger) == {"adopted": 1}
    assert [(one.is_at_work, one.sha256) for one in ledger.list_contents("1.2.3")] == [
        (True, at_work.spooled.sha256),
        (False, orphan.spooled.sha256),
    ]
    sent_again = ledger.record_instance(orphan, association="a", hold_until=0, now=101)
    assert sent_again is RecordOutcome.CHANGED


def spoil(spool: Spool, path: str, how: str) -> None:
    file = spool.root / path
    match how:
        case "cut short":
            os.truncate(file, file.stat().st_size - 1)
        case "altered":
            file.write_bytes(file.read_bytes()[:-1] + b"\xff")
        case "empty":
            file.write_bytes(b"")
        case "another name":
            file.rename(file.with_name("notes.txt"))


@pytest.mark.parametrize("how", ["cut short", "altered", "empty", "another name"])
def test_an_orphan_that_is_not_whole_is_put_aside(spool: Spool, ledger: Ledger, how: str) -> None:
    spoil(spool, spool_instance(spool).spooled.path, how)
    with capture_logs() as logs:
        assert differences(spool, ledger) == {"quarantined": 1}
    assert ledger.list_studies() == []
    assert len(list((spool.root / "quarantine").iterdir())) == 1
    assert list(spool.root.glob("[0-9a-f][0-9a-f]/*")) == []
    assert [line["event"] for line in logs] == ["file_quarantined", "reconciled"]
    assert differences(spool, ledger) == {}


def test_an_orphan_that_says_nothing_about_itself_is_put_aside(spool: Spool, ledger: Ledger) -> None:
    dataset_of_nothing = b"\x08\x00\x20\x00DA\x08\x0020200101"
    file = spool.keep(
        dataset_of_nothing,
        sop_class_uid="1.2.3",
        sop_instance_uid="1.2.3.4",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
    assert differences(spool, ledger) == {"quarantined": 1}
    assert (spool.root / "quarantine" / Path(file.path).name).exists()


def test_an_orphan_whose_header_names_another_instance_is_put_aside(spool: Spool, ledger: Ledger) -> None:
    whole = spool_instance(spool)
    content = (spool.root / whole.spooled.path).read_bytes()
    dataset = content[content.index(b"\x08\x00\x16\x00UI") :]
    (spool.root / whole.spooled.path).unlink()
    spool.keep(
        dataset,
        sop_class_uid=whole.spooled.sop_class_uid,
        sop_instance_uid="1.2.3.9",
        transfer_syntax_uid=whole.spooled.transfer_syntax_uid,
    )
    assert differences(spool, ledger) == {"quarantined": 1}


# ---------------------------------------------------------------------- rows without a file


def test_a_missing_file_is_told_and_counted_until_it_is_back(spool: Spool, ledger: Ledger) -> None:
    received = receive_instance(spool, ledger)
    finish_studies(ledger, now=5)
    file, elsewhere = spool.root / received.spooled.path, spool.root / "elsewhere"
    file.rename(elsewhere)
    registry = CollectorRegistry()
    registry.register(LostFilesCollector(ledger))
    metrics = KeepingMetrics(registry)

    def lost() -> float | None:
        return registry.get_sample_value("echobeam_listener_lost_files", {"state": "missing"})

    assert lost() == 0
    with capture_logs() as logs:
        for _ in range(2):  # told at every start, and written once
            metrics.observe_reconciliation(reconcile(spool, ledger, now=100))
    assert [line["log_level"] for line in logs] == ["error"] * 4
    assert (logs[0]["study_instance_uid"], logs[0]["files"]) == ("1.2.3", 1)
    assert lost() == 1
    missing = registry.get_sample_value("echobeam_listener_reconciled_files_total", {"result": "missing"})
    assert missing == 2
    [content] = ledger.list_contents("1.2.3")
    assert (content.file_state, content.file_state_at) == (FileState.MISSING, 100)

    elsewhere.rename(file)
    assert differences(spool, ledger, now=200) == {"restored": 1}
    assert lost() == 0
    study = ledger.show_study("1.2.3")
    assert (study.state, study.revision) == (StudyState.RECEIVING, 2)


def test_a_file_of_another_size_is_damaged(spool: Spool, ledger: Ledger) -> None:
    received = receive_instance(spool, ledger)
    os.truncate(spool.root / received.spooled.path, 10)
    assert differences(spool, ledger) == {"damaged": 1}
    assert [content.file_state for content in ledger.list_contents("1.2.3")] == [FileState.DAMAGED]


def test_a_file_whose_digest_was_wrong_stays_damaged_although_its_size_is_right(
    spool: Spool, ledger: Ledger
) -> None:
    receive_instance(spool, ledger)
    ledger.note_lost_files(ledger.list_contents("1.2.3"), FileState.DAMAGED, now=1)
    assert differences(spool, ledger) == {"damaged": 1}


def test_the_log_names_some_of_many_studies_and_counts_all(spool: Spool, ledger: Ledger) -> None:
    for number in range(25):
        received = receive_instance(spool, ledger, study=f"1.2.{number}")
        (spool.root / received.spooled.path).unlink()
    with capture_logs() as logs:
        assert differences(spool, ledger) == {"missing": 25}
    assert len(logs) == 21
    assert (logs[-1]["event"], logs[-1]["missing"]) == ("reconciled", 25)


def test_without_the_ledger_its_series_is_absent(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    registry = CollectorRegistry()
    registry.register(LostFilesCollector(ledger))
    ledger.close()
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 1000)
    assert registry.get_sample_value("echobeam_listener_lost_files", {"state": "missing"}) is None
