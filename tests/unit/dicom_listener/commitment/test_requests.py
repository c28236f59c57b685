import pytest
from pydicom.sequence import Sequence

from dicom_listener.commitment.ledger import CommitmentLedger
from dicom_listener.commitment.records import Reference, Verdict
from dicom_listener.commitment.sender import build_report
from dicom_listener.commitment.statuses import FailureReason, ReportEvent
from dicom_listener.commitment.verification import verify_references
from dicom_listener.ledger import Ledger
from dicom_listener.spool.writing import Spool
from tests.unit.dicom_listener.commitments import US, keep, references

PET = "1.2.840.10008.5.1.4.1.1.128"


def verify(ledger: Ledger, spool: Spool, *wanted: Reference) -> list[int | None]:
    verdicts = verify_references(CommitmentLedger(ledger), spool.root, wanted)
    assert [verdict.reference for verdict in verdicts] == list(wanted)
    return [verdict.failure_reason for verdict in verdicts]


def test_what_is_whole_is_committed_with_its_digest(ledger: Ledger, spool: Spool) -> None:
    file = keep(spool, ledger, 1)
    [verdict] = verify_references(CommitmentLedger(ledger), spool.root, references(1))
    assert (verdict.failure_reason, verdict.sha256) == (None, file.stem)


def test_what_never_came_is_no_such_instance_unless_its_class_is_never_received(
    ledger: Ledger, spool: Spool
) -> None:
    assert verify(ledger, spool, Reference(US, "1.2.3.1.9"), Reference(PET, "1.2.3.1.8")) == [0x0112, 0x0122]


def test_another_class_than_was_received_is_a_conflict(ledger: Ledger, spool: Spool) -> None:
    keep(spool, ledger, 1)
    assert verify(ledger, spool, *references(1, sop_class=PET)) == [0x0119]


def test_a_file_that_is_gone_is_no_such_instance(ledger: Ledger, spool: Spool) -> None:
    keep(spool, ledger, 1).unlink()
    assert verify(ledger, spool, *references(1)) == [0x0112]


@pytest.mark.parametrize("damage", ["changed", "shortened", "lengthened"])
def test_a_file_that_is_not_what_was_received_is_not_committed(
    ledger: Ledger, spool: Spool, damage: str
) -> None:
    file = keep(spool, ledger, 1)
    content = file.read_bytes()
    damaged = {
        "changed": content[:-1] + bytes([content[-1] ^ 1]),
        "shortened": content[:-1],
        "lengthened": content + b"\0",
    }
    file.write_bytes(damaged[damage])
    assert verify(ledger, spool, *references(1)) == [0x0110]


def test_a_file_that_cannot_be_read_is_not_committed(ledger: Ledger, spool: Spool) -> None:
    file = keep(spool, ledger, 1)
    file.unlink()
    file.mkdir()
    assert verify(ledger, spool, *references(1)) == [0x0110]


def test_all_that_is_kept_under_one_uid_must_be_whole(ledger: Ledger, spool: Spool) -> None:
    keep(spool, ledger, 1)
    other = keep(spool, ledger, 1, study="1.2.4", uid="1.2.3.1.1")
    assert verify(ledger, spool, *references(1)) == [None]
    other.write_bytes(b"")
    assert verify(ledger, spool, *references(1)) == [0x0110]


def test_a_report_of_whole_instances_is_a_success() -> None:
    event, information = build_report("1.9", [Verdict(one, None, "0" * 64) for one in references(1, 2)])
    assert event is ReportEvent.ALL_COMMITTED
    assert information.TransactionUID == "1.9"
    assert [item.ReferencedSOPInstanceUID for item in information.ReferencedSOPSequence] == [
        "1.2.3.1.1",
        "1.2.3.1.2",
    ]
    assert "FailedSOPSequence" not in information


def test_a_report_with_failures_names_every_instance_and_each_reason() -> None:
    whole, gone = references(1, 2)
    reason = FailureReason.NO_SUCH_OBJECT_INSTANCE
    event, information = build_report("1.9", [Verdict(whole, None, "0" * 64), Verdict(gone, reason, None)])
    assert event is ReportEvent.FAILURES_EXIST
    [committed] = information.ReferencedSOPSequence
    [failed] = information.FailedSOPSequence
    assert (committed.ReferencedSOPInstanceUID, committed.ReferencedSOPClassUID) == ("1.2.3.1.1", US)
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.2.3.1.2", 0x0112)


def test_a_report_of_failures_alone_has_no_empty_sequence() -> None:
    _, information = build_report("1.9", [Verdict(references(1)[0], 0x0112, None)])
    assert "ReferencedSOPSequence" not in information
    assert isinstance(information.FailedSOPSequence, Sequence)
